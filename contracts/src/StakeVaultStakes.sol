// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Pool, StakeVaultPool} from "./StakeVaultPool.sol";
import {StakeVaultRewards} from "./StakeVaultRewards.sol";

/// @title Stake: in, on its way out, and out.
/// @notice Stake that is on its way out stays slashable until it is withdrawn, also after its time is over.
abstract contract StakeVaultStakes is StakeVaultRewards, ReentrancyGuardTransient {
    using StakeVaultPool for Pool;

    /// @notice How many withdrawals an account can have open with one provider.
    uint256 public constant MAX_TICKETS = 16;

    function stake(uint32 provider, uint128 amount) external nonReentrant whenOpen(Path.Inflow) {
        ProviderState storage state = _ownedByCaller(provider);
        _divide(provider);
        _pull(amount);
        state.own += amount;
        emit Staked(provider, amount);
    }

    function delegate(uint32 provider, uint128 amount)
        external
        nonReentrant
        whenOpen(Path.Inflow)
        returns (uint128 shares)
    {
        ProviderState storage state = _known(provider);
        uint128 minimum = uint128(parameter(Parameter.MinimumDelegation));
        if (amount < minimum) revert BelowMinimumDelegation(minimum);
        _pull(amount);
        _divide(provider);
        Delegation storage mine = _bringForward(provider, msg.sender);
        shares = state.delegated.join(amount);
        mine.shares += shares;
        emit Delegated(provider, msg.sender, amount, shares);
    }

    function requestUnbond(uint32 provider, uint128 amount) external nonReentrant returns (uint32 ticket) {
        ProviderState storage state = _ownedByCaller(provider);
        if (amount == 0) revert AmountZero();
        if (amount > state.own) revert AmountTooLarge(state.own);
        // All of it may be a fraction of the token's unit more, which a slash left behind.
        if (amount % NANO_PER_UNIT != 0 && amount != state.own) revert NotWholeUnits(NANO_PER_UNIT);
        _tryDivide(provider);
        state.own -= amount;
        ticket = _openTicket(provider, state, true, amount);
    }

    function requestUndelegate(uint32 provider, uint128 shares) external nonReentrant returns (uint32 ticket) {
        ProviderState storage state = _known(provider);
        _tryDivide(provider);
        Delegation storage mine = _bringForward(provider, msg.sender);
        if (shares == 0) revert AmountZero();
        if (shares > mine.shares) revert AmountTooLarge(mine.shares);
        mine.shares -= shares;
        ticket = _openTicket(provider, state, false, state.delegated.exit(shares));
    }

    function withdraw(uint32 provider, uint32 ticket)
        external
        nonReentrant
        whenOpen(Path.Withdrawals)
        returns (uint128 amount)
    {
        ProviderState storage state = _known(provider);
        (TicketState storage mine, uint256 index) = _ticket(provider, ticket);
        if (block.timestamp < mine.unlockAt) revert StillLocked(mine.unlockAt);
        Pool storage pool = mine.own ? state.ownUnbonding : state.delegatedUnbonding;
        uint128 shares = pool.inEra(mine.shares, mine.era);
        uint128 worth = pool.worth(shares);
        uint128 free = mine.own ? _freeOwn(state) : _freeDelegated(state);
        amount = free < worth ? _payable(free) : worth;
        if (worth != 0 && amount == 0) revert AllFrozen();
        if (amount == worth) {
            pool.exit(shares);
            _closeTicket(provider, index);
        } else {
            mine.shares = shares - pool.exitPartly(shares, amount);
            mine.era = pool.era;
        }
        _principal -= amount;
        // A fraction of the token's unit, which a slash can leave behind, goes to the treasury.
        uint128 paid = _payable(amount);
        _slashed += amount - paid;
        emit Withdrawn(provider, msg.sender, ticket, paid);
        _push(msg.sender, paid);
        amount = paid;
    }

    function rebond(uint32 provider, uint32 ticket)
        external
        nonReentrant
        whenOpen(Path.Inflow)
        returns (uint128 amount)
    {
        ProviderState storage state = _known(provider);
        (TicketState storage mine, uint256 index) = _ticket(provider, ticket);
        bool own = mine.own;
        _divide(provider);
        Pool storage pool = own ? state.ownUnbonding : state.delegatedUnbonding;
        amount = pool.exit(pool.inEra(mine.shares, mine.era));
        _closeTicket(provider, index);
        if (own) {
            state.own += amount;
        } else {
            Delegation storage entry = _bringForward(provider, msg.sender);
            entry.shares += state.delegated.join(amount);
        }
        emit Rebonded(provider, msg.sender, ticket, amount);
    }

    function ticketsOf(uint32 provider, address account) external view returns (Ticket[] memory tickets) {
        ProviderState storage state = _known(provider);
        TicketState[] storage all = _tickets[provider][account];
        tickets = new Ticket[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            TicketState storage entry = all[i];
            Pool storage pool = entry.own ? state.ownUnbonding : state.delegatedUnbonding;
            tickets[i] = Ticket({
                id: entry.id,
                amount: pool.worth(pool.inEra(entry.shares, entry.era)),
                unlockAt: entry.unlockAt
            });
        }
    }

    function effectiveStake(uint32 provider) public view returns (uint128) {
        ProviderState storage state = _known(provider);
        uint256 limit = uint256(state.own) * parameter(Parameter.DelegationLimitBps) / BPS;
        uint256 delegated = state.delegated.amount;
        uint256 counted = state.own + (delegated < limit ? delegated : limit);
        return _less(uint128(counted), state.frozen);
    }

    function isBonded(uint32 provider, Role role) external view returns (bool) {
        return effectiveStake(provider) > minimumStake(role);
    }

    function _openTicket(uint32 provider, ProviderState storage state, bool own, uint128 amount)
        private
        returns (uint32 id)
    {
        TicketState[] storage tickets = _tickets[provider][msg.sender];
        if (tickets.length >= MAX_TICKETS) revert TooManyTickets();
        Pool storage pool = own ? state.ownUnbonding : state.delegatedUnbonding;
        id = ++_lastTicket[provider][msg.sender];
        uint64 unlockAt = _deadline(Parameter.UnbondingTime);
        tickets.push(
            TicketState({id: id, era: pool.era, unlockAt: uint48(unlockAt), own: own, shares: pool.join(amount)})
        );
        emit UnbondRequested(provider, msg.sender, id, amount, unlockAt);
    }

    function _ticket(uint32 provider, uint32 id) private view returns (TicketState storage entry, uint256 index) {
        TicketState[] storage tickets = _tickets[provider][msg.sender];
        for (index = 0; index < tickets.length; ++index) {
            if (tickets[index].id == id) return (tickets[index], index);
        }
        revert UnknownTicket();
    }

    function _closeTicket(uint32 provider, uint256 index) private {
        TicketState[] storage tickets = _tickets[provider][msg.sender];
        tickets[index] = tickets[tickets.length - 1];
        tickets.pop();
    }
}
