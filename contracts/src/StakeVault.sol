// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {StakeVaultParameters} from "./StakeVaultParameters.sol";
import {Pool, StakeVaultPool} from "./StakeVaultPool.sol";
import {StakeVaultStakes} from "./StakeVaultStakes.sol";
import {StakeVaultStorage} from "./StakeVaultStorage.sol";

/// @title StakeVault: providers, their stake and what others delegate to them, unbonding, slashing.
/// @notice A slash takes from the provider's own stake, then from its own that is on its way out, then from what was
/// delegated, pro rata from all of it: whoever left after the offence bears as much as whoever stayed. It never reverts
/// because of amounts: it takes what is there.
contract StakeVault is StakeVaultStakes, EIP712 {
    using StakeVaultPool for Pool;

    bytes32 public constant SLASH_TYPEHASH = keccak256(
        "Slash(uint32 lane,bytes32 incidentId,uint32 provider,uint128 amount,bytes32 evidence,uint64 validUntil)"
    );

    /// @dev What slashes froze under the freeze cap, in two windows that follow each other. Their sum is held to the cap, so
    /// that it holds within any period of a window's length.
    struct Freezes {
        uint64 since;
        uint128 now_;
        uint128 before;
    }

    uint256 private _slashCount;
    mapping(uint256 id => Slash) private _slashes;
    mapping(uint32 lane => mapping(bytes32 incidentId => uint256)) private _slashIds;
    mapping(uint32 lane => address) private _slashSigners;
    mapping(uint32 provider => Freezes) private _freezes;

    constructor(IERC20 token_, address admin, uint48 adminDelay, address treasury_)
        EIP712("Gridstake StakeVault", "1")
        AccessControlDefaultAdminRules(adminDelay, admin)
        StakeVaultParameters(treasury_)
        StakeVaultStorage(token_)
    {}

    /// @notice Lane admin: whose signature authorises slashes for a lane; zero for nobody's.
    function setSlashSigner(uint32 lane, address signer) external onlyRole(LANE_ADMIN_ROLE) {
        _slashSigners[lane] = signer;
        emit SlashSignerChanged(lane, signer);
    }

    function slashSigner(uint32 lane) external view returns (address) {
        return _slashSigners[lane];
    }

    function proposeSlash(
        uint32 lane,
        bytes32 incidentId,
        uint32 provider,
        uint128 amount,
        bytes32 evidence,
        uint64 validUntil,
        bytes32 r,
        bytes32 vs
    ) external returns (uint256 id) {
        if (block.timestamp > validUntil) revert Expired();
        _checkSlashSignature(lane, incidentId, provider, amount, evidence, validUntil, r, vs);
        if (_slashIds[lane][incidentId] != 0) revert IncidentKnown(_slashIds[lane][incidentId]);
        if (amount == 0) revert AmountZero();
        ProviderState storage state = _known(provider);
        uint128 left = _less(_atStake(state), state.frozen);
        uint128 frozen = _min(amount, left);
        if (frozen != 0 && !hasRole(ARBITER_ROLE, msg.sender)) frozen = _underFreezeCap(provider, state, frozen);

        id = ++_slashCount;
        _slashIds[lane][incidentId] = id;
        Slash storage slash = _slashes[id];
        slash.lane = lane;
        slash.provider = provider;
        slash.incidentId = incidentId;
        slash.amount = amount;
        slash.frozen = frozen;
        slash.evidence = evidence;
        slash.disputeUntil = _deadline(Parameter.DisputeTime);
        slash.state = SlashState.Proposed;
        state.frozen += frozen;
        emit SlashProposed(id, provider, incidentId, lane, frozen, evidence, slash.disputeUntil);
        if (frozen == 0) _cancel(id, slash, CancelWhy.NothingAtStake);
    }

    function disputeSlash(uint256 id, bytes32 counterEvidence) external {
        Slash storage slash = _slash(id);
        ProviderState storage state = _providers[slash.provider];
        if (msg.sender != state.staker && msg.sender != state.operator) revert NotAuthorised();
        if (slash.state != SlashState.Proposed) revert WrongState();
        if (block.timestamp > slash.disputeUntil) revert TooLate(slash.disputeUntil);
        slash.state = SlashState.Disputed;
        slash.counterEvidence = counterEvidence;
        slash.resolveUntil = _deadline(Parameter.ResolveTime);
        emit SlashDisputed(id, slash.provider, counterEvidence, slash.resolveUntil);
    }

    function resolveSlash(uint256 id, uint128 upheld) external onlyRole(ARBITER_ROLE) {
        Slash storage slash = _slash(id);
        if (slash.state != SlashState.Disputed) revert WrongState();
        if (block.timestamp > slash.resolveUntil) revert TooLate(slash.resolveUntil);
        slash.upheld = _min(upheld, slash.frozen);
        emit SlashResolved(id, slash.provider, slash.upheld);
        if (upheld == 0) _cancel(id, slash, CancelWhy.NotUpheld);
        else slash.state = SlashState.Upheld;
    }

    function finalizeSlash(uint256 id) external {
        Slash storage slash = _slash(id);
        if (slash.state == SlashState.Upheld) {
            _execute(id, slash, slash.upheld);
        } else if (slash.state == SlashState.Proposed) {
            if (block.timestamp <= slash.disputeUntil) revert TooEarly(slash.disputeUntil);
            _execute(id, slash, slash.frozen);
        } else if (slash.state == SlashState.Disputed) {
            if (block.timestamp <= slash.resolveUntil) revert TooEarly(slash.resolveUntil);
            _cancel(id, slash, CancelWhy.NotDecided);
        } else {
            revert WrongState();
        }
    }

    function cancelSlash(uint256 id) external onlyRole(GUARDIAN_ROLE) {
        Slash storage slash = _slash(id);
        if (slash.state == SlashState.Executed || slash.state == SlashState.Cancelled) revert WrongState();
        _cancel(id, slash, CancelWhy.Guardian);
    }

    function paySlashedFunds() external nonReentrant returns (uint128 amount) {
        amount = _payable(_slashed);
        if (amount == 0) revert AmountZero();
        _slashed -= amount;
        emit SlashedFundsPaid(treasury(), amount);
        _push(treasury(), amount);
    }

    function slashOf(uint256 id) external view returns (Slash memory) {
        return _slash(id);
    }

    function slashIdOf(uint32 lane, bytes32 incidentId) external view returns (uint256) {
        return _slashIds[lane][incidentId];
    }

    function _slash(uint256 id) private view returns (Slash storage slash) {
        slash = _slashes[id];
        if (slash.state == SlashState.None) revert UnknownSlash();
    }

    function _checkSlashSignature(
        uint32 lane,
        bytes32 incidentId,
        uint32 provider,
        uint128 amount,
        bytes32 evidence,
        uint64 validUntil,
        bytes32 r,
        bytes32 vs
    ) private view {
        bytes32 content =
            keccak256(abi.encode(SLASH_TYPEHASH, lane, incidentId, provider, amount, evidence, validUntil));
        (address signer,,) = ECDSA.tryRecover(_hashTypedDataV4(content), r, vs);
        if (signer == address(0) || signer != _slashSigners[lane]) revert BadSignature();
    }

    /// @dev The part of `amount` that the freeze cap leaves room for.
    function _underFreezeCap(uint32 provider, ProviderState storage state, uint128 amount)
        private
        returns (uint128 frozen)
    {
        uint128 atStake = _atStake(state);
        // Rounded up, so that there is room for something wherever something is at stake.
        uint256 cap = Math.mulDiv(atStake, parameter(Parameter.FreezeCapBps), BPS, Math.Rounding.Ceil);
        if (cap == atStake) return amount;
        Freezes storage freezes = _freezes[provider];
        uint64 windowEnd = freezes.since + FREEZE_WINDOW;
        // What this window has used counts for one more.
        uint64 retryAt = freezes.now_ < cap ? windowEnd : windowEnd + FREEZE_WINDOW;
        if (block.timestamp >= windowEnd) {
            bool followsAtOnce = block.timestamp < windowEnd + FREEZE_WINDOW;
            freezes.before = followsAtOnce ? freezes.now_ : 0;
            freezes.now_ = 0;
            freezes.since = uint64(block.timestamp);
        }
        uint256 used = uint256(freezes.now_) + freezes.before;
        if (used >= cap) revert FreezeCapReached(retryAt);
        frozen = _min(amount, uint128(cap - used));
        freezes.now_ += frozen;
    }

    function _cancel(uint256 id, Slash storage slash, CancelWhy why) private {
        slash.state = SlashState.Cancelled;
        slash.why = why;
        _providers[slash.provider].frozen -= slash.frozen;
        emit SlashCancelled(id, slash.provider, why);
    }

    /// @dev `amount` is at most what the slash has frozen, and what is frozen is at most what is at stake.
    function _execute(uint256 id, Slash storage slash, uint128 amount) private {
        uint32 provider = slash.provider;
        // Before the call below: whoever it leads to finds a slash that is over. What it takes stays frozen until it is taken.
        slash.state = SlashState.Executed;
        // What was credited until now is divided by the shares of until now.
        _tryDivide(provider);
        ProviderState storage state = _providers[provider];
        state.frozen -= slash.frozen;

        uint128 rest = amount;
        uint128 own = _min(rest, state.own);
        state.own -= own;
        rest -= own;
        uint128 ownUnbonding = _min(rest, state.ownUnbonding.amount);
        state.ownUnbonding.cut(ownUnbonding);
        rest -= ownUnbonding;
        // Not more than there is: the quotient is rounded down, so the rest of it is at most what is on its way out.
        uint256 allDelegated = uint256(state.delegated.amount) + state.delegatedUnbonding.amount;
        uint128 delegated =
            allDelegated == 0 ? 0 : uint128(Math.mulDiv(rest, state.delegated.amount, allDelegated));
        uint128 delegatedUnbonding = rest - delegated;
        _cutDelegated(provider, state, delegated);
        state.delegatedUnbonding.cut(delegatedUnbonding);

        uint128 fromStake = own + delegated;
        uint128 fromUnbonding = ownUnbonding + delegatedUnbonding;
        _principal -= fromStake + fromUnbonding;
        _slashed += fromStake + fromUnbonding;
        emit SlashExecuted(id, provider, fromStake, fromUnbonding);
    }
}
