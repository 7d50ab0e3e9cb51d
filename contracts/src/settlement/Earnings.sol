// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakeVault} from "../interfaces/IStakeVault.sol";
import {Accounts, PROVIDERS} from "./Accounts.sol";
import {Holdings} from "./Holdings.sol";

/// @title What providers have earned, from a batch's credit to the beneficiary.
/// @notice credit (per batch) -> division (fee, delegators' part, the provider's part) -> claim -> payment after a delay,
/// in which a guardian can stop a bad payout. Payments are pulled: a recipient that refuses tokens stops its own only.
abstract contract Earnings is Holdings {
    /// @dev One slot.
    struct Earned {
        uint64 amount;
        uint64 claim;
        uint64 claimDue;
    }

    mapping(uint32 provider => Earned) private _earned;

    uint64 public feesDue;

    function activateProvider(uint32 provider) external {
        if (isActive(provider)) revert NothingToDo();
        if (!_isRegistered(provider)) revert UnknownProvider(provider);
        uint64 payableAt = _vault.providerOf(provider).payableAt;
        if (block.timestamp < payableAt) revert ProviderIsCooling(provider, payableAt);
        Accounts.open(PROVIDERS, provider);
        emit ProviderActivated(provider);
    }

    /// @dev Never pausable and never fails for want of something to divide: the vault depends on it.
    function divide(uint32 provider) external nonReentrant {
        _divide(provider);
    }

    function requestClaim(uint32 provider) external nonReentrant {
        _divide(provider);
        Earned storage earned = _earned[provider];
        if (earned.claim != 0) revert ClaimOpen(earned.claimDue);
        uint64 amount = _whole(earned.amount);
        if (amount == 0) revert NothingToDo();
        uint64 due = uint64(block.timestamp) + claimDelay;
        earned.amount -= amount;
        earned.claim = amount;
        earned.claimDue = due;
        emit ClaimRequested(provider, amount, due);
    }

    function claim(uint32 provider) external nonReentrant returns (uint64 amount) {
        _requireNotPaused(Path.Claim);
        Earned storage earned = _earned[provider];
        amount = earned.claim;
        if (amount == 0) revert NothingToDo();
        if (block.timestamp < earned.claimDue) revert NotDue(earned.claimDue);
        earned.claim = 0;
        earned.claimDue = 0;
        address beneficiary = _vault.providerOf(provider).beneficiary;
        emit Claimed(provider, beneficiary, amount);
        _pay(beneficiary, amount);
    }

    function collectFees() external nonReentrant returns (uint64 amount) {
        _requireNotPaused(Path.Claim);
        amount = _whole(feesDue);
        if (amount == 0) revert NothingToDo();
        feesDue -= amount;
        emit FeesCollected(treasury, amount);
        _pay(treasury, amount);
    }

    function isActive(uint32 provider) public view returns (bool) {
        return Accounts.isLive(PROVIDERS, provider);
    }

    function creditOf(uint32 provider) public view returns (uint64) {
        return Accounts.amountOf(PROVIDERS, provider);
    }

    function earnedOf(uint32 provider) external view returns (uint64) {
        return _earned[provider].amount;
    }

    function claimOf(uint32 provider) external view returns (Claim memory) {
        return Claim({amount: _earned[provider].claim, due: _earned[provider].claimDue});
    }

    function _isRegistered(uint32 provider) private view returns (bool) {
        return provider != 0 && provider <= _vault.providerCount();
    }

    /// @dev Divides what the token can move of the credit; the rest stays. Delegators' part is rounded up to what the
    /// token can move, so that the vault never gets less than it owes: the provider, then the treasury, bears the
    /// difference of less than one smallest unit. With 9 decimals or more nothing is rounded.
    function _divide(uint32 provider) private {
        uint64 credit = _whole(creditOf(provider));
        if (credit == 0) return;
        Accounts.sub(PROVIDERS, provider, credit);

        uint64 fee = uint64(uint256(credit) * feeBps / BPS);
        uint64 share = credit - fee;
        uint64 toDelegators = _vault.divideRewards(provider, share);
        if (toDelegators > share) revert BadDivision(share, toDelegators);
        uint64 sent = _whole(toDelegators + granularity - 1);
        if (sent > share) fee = credit - sent;
        uint64 toProvider = credit - sent - fee;

        feesDue += fee;
        _earned[provider].amount += toProvider;
        emit Divided(provider, credit, fee, sent, toProvider);
        if (sent != 0) _pay(address(_vault), sent);
    }
}
