// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakeVault} from "../../src/interfaces/IStakeVault.sol";
import {BatchFormat, Content, Job} from "./BatchFormat.sol";
import {VaultFixture} from "./VaultFixture.sol";

/// @dev Everybody at once: providers, delegators, a lane, a slash signer, an arbiter, a guardian. Each step does one thing
/// that must succeed, or fails for the one reason that is right; whatever can be compared at once is compared here.
/// An action for which there is nothing to do hands on to the next, so no step does nothing.
contract SystemHandler is VaultFixture {
    uint32 public constant PROVIDERS = 2;
    uint32 public constant PAYERS = 3;
    uint64 private constant JOBS = 700;
    uint256 public constant ACTIONS = 22;

    address[3] public accounts = [STAKER, DELEGATOR, LATE];
    uint256 public slashes;
    uint256[] private _open;
    /// Steps so far, those of them in which there was something to do for the action that was drawn, and what was done.
    uint256 public steps;
    uint256 public asDrawn;
    uint256[ACTIONS] public done;
    mapping(uint64 jobNo => bool) private _paid;
    /// How often each kind of thing happened.
    mapping(string what => uint256) public count;

    uint256 private random;

    /// Nano-tokens in the token's smallest unit; 1 if it counts 9 decimals or more.
    uint64 public immutable unit;

    constructor(uint8 decimals) {
        _deploy(decimals);
        unit = settlement.granularity();
        _register();
        _later(1 days);
        for (uint32 p = 1; p <= PROVIDERS; p++) {
            settlement.activateProvider(p);
        }
        for (uint32 i = 1; i <= PAYERS; i++) {
            _payer(uint64(1_000 * TOKEN));
        }
    }

    function vaultAddress() external view returns (address, address, address) {
        return (address(vault), address(settlement), address(token));
    }

    function head() external view returns (uint64, bytes32) {
        return (seq, chain);
    }

    function step(uint256 action, uint256 seed) external {
        random = seed;
        provider = uint32(1 + _below(PROVIDERS));
        action %= ACTIONS;
        steps++;
        if (_act(action)) {
            asDrawn++;
        } else {
            // The last action always has something to do.
            do {
                action++;
            } while (!_act(action));
        }
        done[action]++;
    }

    /// @dev Whether there was something to do; if not, nothing was done.
    function _act(uint256 action) private returns (bool) {
        if (action < 8) return _stakes(action);
        if (action < 14) return _slashing(action);
        return _money(action);
    }

    function _below(uint256 bound) private returns (uint256) {
        random = uint256(keccak256(abi.encode(random)));
        return random % bound;
    }

    function _account() private returns (address) {
        return accounts[_below(accounts.length)];
    }

    /// @dev Mostly middling, sometimes as little or as much as there may be.
    function _amount(uint256 most) private returns (uint128) {
        uint256 way = _below(8);
        if (way == 0) return 1;
        if (way == 1) return uint128(most);
        return uint128(1 + _below(most));
    }

    /// @dev The same in units of the token.
    function _whole(uint256 most) private returns (uint128) {
        return uint128(unit * (1 + _amount(most) / unit));
    }

    // ---- stake

    function _stakes(uint256 action) private returns (bool) {
        if (action == 0) {
            _stake(_whole(50_000 * TOKEN));
        } else if (action == 1) {
            _delegate(_account(), TOKEN + _whole(50_000 * TOKEN));
        } else if (action == 2) {
            uint128 own = _own();
            if (own == 0 || vault.ticketsOf(provider, STAKER).length == 16) return false;
            uint128 amount = _whole(own);
            _unbond(amount < own ? amount : own);
        } else if (action == 3) {
            address who = _account();
            (uint128 shares,) = vault.delegationOf(provider, who);
            if (shares == 0 || vault.ticketsOf(provider, who).length == 16) return false;
            _undelegate(who, _amount(shares));
        } else if (action == 4) {
            address who = _account();
            IStakeVault.Ticket[] memory tickets = vault.ticketsOf(provider, who);
            if (tickets.length == 0) return false;
            vm.prank(who);
            vault.rebond(provider, tickets[_below(tickets.length)].id);
            count["rebonded"]++;
        } else if (action == 5) {
            vm.prank(STAKER);
            vault.setCommission(provider, uint16(_below(2_001)));
        } else {
            return _withdrawOne(_account());
        }
        return true;
    }

    function _withdrawOne(address who) private returns (bool) {
        IStakeVault.Ticket[] memory tickets = vault.ticketsOf(provider, who);
        if (tickets.length == 0) return false;
        IStakeVault.Ticket memory ticket = tickets[_below(tickets.length)];
        if (ticket.unlockAt > _now()) _later(ticket.unlockAt - _now());
        uint256 before = token.balanceOf(who);
        vm.prank(who);
        try vault.withdraw(provider, ticket.id) returns (uint128 paid) {
            _true(paid <= ticket.amount, "no more than the ticket is worth");
            _same(token.balanceOf(who) - before, _units(uint64(paid)), "paid");
            bool closed = vault.ticketsOf(provider, who).length < tickets.length;
            _true(!closed || ticket.amount - paid < unit, "but for what the token cannot say");
            count[closed ? "withdrawn" : "withdrawn in part"]++;
        } catch (bytes memory reason) {
            _true(bytes4(reason) == IStakeVault.AllFrozen.selector && _frozen() != 0, "only what is frozen stays");
            count["withdrawal frozen"]++;
        }
        return true;
    }

    // ---- slashes

    function _slashing(uint256 action) private returns (bool) {
        if (action == 8 || action == 9) {
            _proposeOne();
            return true;
        }
        if (_open.length == 0) return false;
        uint256 place = _below(_open.length);
        uint256 id = _open[place];
        IStakeVault.Slash memory slash = vault.slashOf(id);
        if (action == 10) {
            if (slash.state != IStakeVault.SlashState.Proposed || _now() > slash.disputeUntil) return false;
            _dispute(id);
            return true;
        }
        if (action == 11) {
            if (slash.state != IStakeVault.SlashState.Disputed || _now() > slash.resolveUntil) return false;
            _resolve(id, _below(3) == 0 ? 0 : _amount(2 * uint256(slash.frozen)));
            if (vault.slashOf(id).state == IStakeVault.SlashState.Cancelled) _ended(place);
            return true;
        }
        if (action == 12 || _below(4) != 0) {
            _finalizeOne(id, slash);
        } else {
            vm.prank(GUARDIAN);
            vault.cancelSlash(id);
            count["cancelled by the guardian"]++;
        }
        _ended(place);
        return true;
    }

    function _ended(uint256 place) private {
        _open[place] = _open[_open.length - 1];
        _open.pop();
    }

    function _proposeOne() private {
        bool arbiter = _below(3) == 0;
        uint128 asked = _below(6) == 0 ? type(uint128).max : _amount(60_000 * TOKEN);
        IStakeVault.Provider memory p = vault.providerOf(provider);
        uint128 free = p.own + p.delegated + p.unbonding - p.frozen;
        bytes32 incident = bytes32(slashes + 1);
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, incident, provider, asked, "evidence", _now()));
        vm.prank(arbiter ? ARBITER : STRANGER);
        try vault.proposeSlash(LANE, incident, provider, asked, "evidence", _now(), r, vs) returns (uint256 id) {
            slashes = id;
            uint128 frozen = vault.slashOf(id).frozen;
            _true(frozen <= asked && frozen <= free, "no more than asked and there");
            if (arbiter) _same(frozen, asked < free ? asked : free, "all of it");
            if (frozen != 0) _open.push(id);
            count[frozen == 0 ? "nothing at stake" : "proposed"]++;
        } catch (bytes memory reason) {
            _true(bytes4(reason) == IStakeVault.FreezeCapReached.selector && !arbiter, "only the freeze cap refuses");
            count["freeze cap"]++;
        }
    }

    function _finalizeOne(uint256 id, IStakeVault.Slash memory slash) private {
        uint256 due;
        if (slash.state == IStakeVault.SlashState.Proposed) due = slash.disputeUntil + 1;
        else if (slash.state == IStakeVault.SlashState.Disputed) due = slash.resolveUntil + 1;
        if (due > _now()) _later(due - _now());
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        vault.finalizeSlash(id);
        uint128 want = slash.frozen;
        if (slash.state == IStakeVault.SlashState.Upheld) want = slash.upheld;
        if (slash.state == IStakeVault.SlashState.Disputed) want = 0;
        (uint128 principalNow,, uint128 slashedNow) = vault.liabilities();
        _same(slashedNow - slashed, want, "taken: what was frozen or upheld");
        _same(principal - principalNow, want, "from stake");
        count[want == 0 ? "released" : "executed"]++;
    }

    // ---- money

    function _money(uint256 action) private returns (bool) {
        if (action <= 15) {
            _settleOne();
        } else if (action == 16) {
            settlement.deposit(LANE, uint32(_below(PAYERS + 1)), uint64(_whole(100 * TOKEN)));
        } else if (action == 17) {
            uint32 payer = uint32(1 + _below(PAYERS));
            settlement.thaw(LANE, payer, uint64(_amount(200 * TOKEN)));
            _later(7 days);
            settlement.withdraw(LANE, payer);
            count["deposit withdrawn"]++;
        } else if (action == 18) {
            bool credit = settlement.creditOf(provider) >= unit;
            settlement.divide(provider);
            if (settlement.earnedOf(provider) < unit) return credit;
            settlement.requestClaim(provider);
            _later(1 days);
            settlement.claim(provider);
            count["claimed"]++;
        } else if (action == 19) {
            return _claimRewards(_account());
        } else if (action == 20) {
            (,, uint128 slashed) = vault.liabilities();
            if (slashed >= unit) vault.paySlashedFunds();
            if (settlement.feesDue() >= unit) settlement.collectFees();
            vm.prank(ADMIN);
            settlement.setFeeBps(uint16(_below(2_001)));
        } else {
            _later(_below(3 days));
        }
        return true;
    }

    function _claimRewards(address who) private returns (bool) {
        bool credit = settlement.creditOf(provider) >= unit;
        settlement.divide(provider);
        if (vault.rewardsOf(provider, who) < unit) return credit;
        vm.prank(who);
        vault.requestRewards(provider);
        _later(1 days);
        vault.claimRewards(provider, who);
        count["rewards claimed"]++;
        return true;
    }

    /// @dev One group, of which some jobs may have been paid before: its credit grows by the others.
    function _settleOne() private {
        Content memory c = _single(0, uint32(_below(PAYERS + 1)), provider, 0);
        c.jobs = new Job[](1 + _below(12));
        uint64 jobNo = uint64(_below(JOBS));
        uint64 fresh;
        for (uint256 i = 0; i < c.jobs.length; i++) {
            c.jobs[i] = Job(jobNo, 0, uint64(_below(20 * TOKEN)));
            if (_paid[jobNo]) count["duplicate"]++;
            else fresh += c.jobs[i].units;
            jobNo += uint64(1 + _below(3));
        }
        uint64 balance = _balance(c.groups[0].payer);
        uint64 credit = settlement.creditOf(provider);
        _settle(BatchFormat.encode(c), bytes32(random));
        bool paid = fresh <= balance;
        _same(settlement.creditOf(provider) - credit, paid ? fresh : 0, "each job once");
        _same(balance - _balance(c.groups[0].payer), paid ? fresh : 0, "from its payer");
        for (uint256 i = 0; paid && i < c.jobs.length; i++) {
            _paid[c.jobs[i].jobNo] = true;
        }
        count[paid ? "paid" : "not paid"]++;
    }
}
