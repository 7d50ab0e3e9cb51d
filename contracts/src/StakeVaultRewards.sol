// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {Pool, StakeVaultPool} from "./StakeVaultPool.sol";
import {StakeVaultProviders} from "./StakeVaultProviders.sol";

/// @title What delegators earn: a cumulative index of rewards a share, so that nobody takes part in what was credited
/// before he came.
abstract contract StakeVaultRewards is StakeVaultProviders {
    using StakeVaultPool for Pool;

    /// @dev The index counts rewards of one share times 2^128.
    uint8 private constant INDEX_SHIFT = 128;
    uint256 private constant HAIR = 1 << 64;

    /// @notice The part of delegated stake in own and delegated stake, less the provider's commission on it.
    function divideRewards(uint32 provider, uint64 amount) external returns (uint64 toDelegators) {
        if (msg.sender != address(_settlement)) revert NotSettlement();
        ProviderState storage state = _known(provider);
        uint256 delegated = state.delegated.amount;
        uint256 shares = state.delegated.shares;
        if (delegated == 0 || shares == 0) return 0;
        uint256 theirs = uint256(amount) * delegated / (delegated + state.own);
        toDelegators = uint64(theirs * (BPS - _commission(state)) / BPS);
        state.rewardIndex += (uint256(toDelegators) << INDEX_SHIFT) / shares;
        _rewards += toDelegators;
        emit RewardsDivided(provider, toDelegators);
    }

    function requestRewards(uint32 provider) external {
        _known(provider);
        _divide(provider);
        Delegation storage mine = _bringForward(provider, msg.sender);
        if (mine.claimed != 0) revert ClaimOpen(mine.claimDue);
        uint128 amount = _payable(mine.owed);
        if (amount == 0) revert AmountZero();
        mine.owed -= amount;
        mine.claimed = amount;
        mine.claimDue = _deadline(Parameter.RewardsDelay);
        emit RewardsRequested(provider, msg.sender, amount, mine.claimDue);
    }

    function claimRewards(uint32 provider, address delegator)
        external
        whenOpen(Path.Rewards)
        returns (uint128 amount)
    {
        Delegation storage theirs = _delegations[provider][delegator];
        amount = theirs.claimed;
        if (amount == 0) revert AmountZero();
        if (block.timestamp < theirs.claimDue) revert TooEarly(theirs.claimDue);
        theirs.claimed = 0;
        theirs.claimDue = 0;
        _requireApartFromStake(amount);
        _rewards -= amount;
        emit RewardsPaid(provider, delegator, amount);
        _push(delegator, amount);
    }

    /// @notice Earned and not in a claim; what Settlement has not divided yet is not in it.
    function rewardsOf(uint32 provider, address delegator) external view returns (uint128 owed) {
        (,, owed) = _forward(provider, delegator);
    }

    function delegationOf(uint32 provider, address delegator)
        external
        view
        returns (uint128 shares, uint128 amount)
    {
        (shares,,) = _forward(provider, delegator);
        amount = _known(provider).delegated.worth(shares);
    }

    /// @dev Credits what the shares have earned and says them in the pool's present era.
    function _bringForward(uint32 provider, address account) internal returns (Delegation storage entry) {
        entry = _delegations[provider][account];
        ProviderState storage state = _providers[provider];
        (entry.shares, entry.index, entry.owed) = _forward(provider, account);
        entry.era = state.delegated.era;
    }

    function _forward(uint32 provider, address account)
        private
        view
        returns (uint128 shares, uint256 index, uint128 owed)
    {
        Delegation storage entry = _delegations[provider][account];
        ProviderState storage state = _providers[provider];
        (shares, index, owed) = (entry.shares, entry.index, entry.owed);
        uint32 present = state.delegated.era;
        for (uint32 era = entry.era; shares != 0 && era < present; ++era) {
            uint256 end = _eraEnd[provider][era];
            owed += _earned(shares, (end & ~WIPED) - index);
            index = end & ~WIPED;
            shares = end & WIPED != 0 ? 0 : shares / StakeVaultPool.RESCALE;
        }
        if (shares != 0) owed += _earned(shares, state.rewardIndex - index);
        index = state.rewardIndex;
    }

    /// @dev Rounded down. The index itself was rounded down when it grew, so a whole amount comes out a hair below itself:
    /// what is less than 2^-64 nano-token below the next amount is that amount. Nobody gains by it: it would take 2^64 calls
    /// to earn one nano-token too much.
    function _earned(uint128 shares, uint256 index) private pure returns (uint128) {
        uint256 whole = Math.mulDiv(shares, index, 1 << INDEX_SHIFT);
        uint256 rest = mulmod(shares, index, 1 << INDEX_SHIFT);
        return uint128(rest > (1 << INDEX_SHIFT) - HAIR ? whole + 1 : whole);
    }

    /// @dev Takes `amount` from the delegated stake of all delegators pro rata, and notes where eras end.
    function _cutDelegated(uint32 provider, ProviderState storage state, uint128 amount) internal {
        uint32 era = state.delegated.era;
        state.delegated.cut(amount);
        uint32 next = state.delegated.era;
        bool wiped = amount != 0 && state.delegated.amount == 0;
        for (; era < next; ++era) {
            _eraEnd[provider][era] = state.rewardIndex | (wiped ? WIPED : 0);
        }
    }
}
