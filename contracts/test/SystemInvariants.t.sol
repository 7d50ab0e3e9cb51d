// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {DeployedSettlement, DeployedVault} from "./support/Deployment.sol";
import {SystemHandler} from "./support/SystemHandler.sol";
import {Test} from "./support/Test.sol";

abstract contract SystemInvariants is Test {
    uint32 private constant LANE = 7;

    uint8 private immutable _decimals;

    SystemHandler private handler;
    DeployedVault private vault;
    DeployedSettlement private settlement;
    IERC20 private token;

    constructor(uint8 decimals) {
        _decimals = decimals;
    }

    function setUp() public {
        handler = new SystemHandler(_decimals);
        (address vault_, address settlement_, address token_) = handler.vaultAddress();
        vault = DeployedVault(vault_);
        settlement = DeployedSettlement(settlement_);
        token = IERC20(token_);
        _target(address(handler));
    }

    /// One campaign for all of them: each says its name when it fails. Forge asks every so many steps (`check_interval` in
    /// foundry.toml) and at the end of each run; what can be compared step by step the handler compares.
    function invariant_theBooksAreRight() public view {
        _solvency();
        _stakes();
        _frozen();
        _rewards();
        _settlementHeld();
        _head();
    }

    /// At the end of each run: the campaign did what it is for. A failure that forge shrinks has fewer steps than a run.
    function afterInvariant() public view {
        uint256 steps = handler.steps();
        if (steps < 100) return;
        _true(handler.asDrawn() * 2 >= steps, "in most steps there is something to do for what was drawn");
        uint256 done;
        for (uint256 i = 0; i < handler.ACTIONS(); i++) {
            done += handler.done(i);
        }
        _same(done, steps, "no step does nothing");
    }

    function _solvency() private view {
        (uint128 principal, uint128 rewards, uint128 slashed) = vault.liabilities();
        uint256 owed = uint256(principal) + rewards + slashed;
        uint256 has = _nano(token.balanceOf(address(vault)));
        if (handler.unit() == 1) _same(has, owed, "the vault has what it owes");
        // Settlement rounds up what it sends for delegators, by less than a unit a division.
        else _true(has >= owed, "the vault has what it owes");
        _same(_nano(token.balanceOf(address(settlement))), settlement.held(), "so has the settlement");
    }

    function _nano(uint256 units) private view returns (uint256) {
        return units * 1e9 / 10 ** _decimals;
    }

    /// The parts of stake are the principal, and what accounts can take out is no more than the parts.
    function _stakes() private view {
        uint256 sum;
        for (uint32 p = 1; p <= handler.PROVIDERS(); p++) {
            IStakeVault.Provider memory state = vault.providerOf(p);
            sum += uint256(state.own) + state.delegated + state.unbonding;
            uint256 delegated;
            uint256 unbonding;
            for (uint256 i = 0; i < 3; i++) {
                address who = handler.accounts(i);
                (, uint128 amount) = vault.delegationOf(p, who);
                delegated += amount;
                IStakeVault.Ticket[] memory tickets = vault.ticketsOf(p, who);
                for (uint256 k = 0; k < tickets.length; k++) {
                    unbonding += tickets[k].amount;
                }
            }
            _true(delegated <= state.delegated, "delegations are covered");
            _true(unbonding <= state.unbonding, "tickets are covered");
            // What is rounded: less than a nano-token a holder, and the share or two that an era's end rounds away.
            _true(state.delegated - delegated <= 100 && state.unbonding - unbonding <= 100, "and nothing is lost");
        }
        (uint128 principal,,) = vault.liabilities();
        _same(sum, principal, "principal");
    }

    /// What is frozen is what open slashes have frozen, and is there.
    function _frozen() private view {
        uint256[3] memory frozen;
        for (uint256 id = 1; id <= handler.slashes(); id++) {
            IStakeVault.Slash memory slash = vault.slashOf(id);
            bool open = slash.state != IStakeVault.SlashState.Executed
                && slash.state != IStakeVault.SlashState.Cancelled;
            if (open) frozen[slash.provider] += slash.frozen;
        }
        for (uint32 p = 1; p <= handler.PROVIDERS(); p++) {
            IStakeVault.Provider memory state = vault.providerOf(p);
            _same(state.frozen, frozen[p], "frozen by open slashes");
            _true(state.frozen <= state.own + state.delegated + state.unbonding, "frozen stake is there");
        }
    }

    function _rewards() private view {
        uint256 sum;
        for (uint32 p = 1; p <= handler.PROVIDERS(); p++) {
            for (uint256 i = 0; i < 3; i++) {
                sum += vault.rewardsOf(p, handler.accounts(i));
            }
        }
        (, uint128 rewards,) = vault.liabilities();
        _true(sum <= rewards, "delegators' rewards are covered");
    }

    function _settlementHeld() private view {
        uint256 sum = settlement.feesDue();
        for (uint32 i = 0; i <= handler.PAYERS(); i++) {
            sum += settlement.balanceOf(LANE, i);
        }
        for (uint32 p = 1; p <= handler.PROVIDERS(); p++) {
            sum += uint256(settlement.creditOf(p)) + settlement.earnedOf(p) + settlement.claimOf(p).amount;
        }
        _same(sum, settlement.held(), "every bucket is held");
    }

    function _head() private view {
        (uint64 seq, bytes32 chain) = handler.head();
        (uint64 headSeq, bytes32 headHash) = settlement.head(LANE);
        _same(headSeq, seq, "sequence");
        _same(headHash, chain, "chain of batches");
    }

    function test_theStepsReachWhatTheyAreFor() public {
        uint256 random = 1;
        for (uint256 i = 0; i < 3_000; i++) {
            random = uint256(keccak256(abi.encode(random)));
            handler.step(random, random >> 8);
            if (i % 100 == 0) invariant_theBooksAreRight();
        }
        string[16] memory kinds = [
            "rebonded", "withdrawn", "withdrawn in part", "withdrawal frozen", "proposed", "nothing at stake",
            "freeze cap", "cancelled by the guardian", "released", "executed", "deposit withdrawn", "claimed",
            "rewards claimed", "duplicate", "paid", "not paid"
        ];
        for (uint256 i = 0; i < kinds.length; i++) {
            _true(handler.count(kinds[i]) != 0, kinds[i]);
        }
        for (uint256 i = 0; i < handler.ACTIONS(); i++) {
            _true(handler.done(i) >= 5, vm.toString(i));
        }
        afterInvariant();
    }
}

contract SystemInvariantsTest is SystemInvariants(18) {}

/// With a token that cannot say every amount.
contract CoarseTokenInvariantsTest is SystemInvariants(6) {}
