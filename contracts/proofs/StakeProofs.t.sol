// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ProofFixture} from "./ProofFixture.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";

/// @dev Proved by halmos for every value of the arguments. The paths are those of one staker with one ticket and, where it is
/// said, one delegator; what many holders of one pool get of it is the campaigns' and the fuzz tests' (SystemInvariants.t.sol,
/// VaultDelegation.t.sol): multiplying two unknowns of 128 bits is beyond the solver.
contract StakeProofs is ProofFixture {
    function setUp() public {
        _deploy();
    }

    function _propose(uint128 amount, bytes32 r, bytes32 vs) private returns (uint256 id) {
        return vault.proposeSlash(LANE, "incident", provider, amount, "evidence", type(uint64).max, r, vs);
    }

    /// All that is owed is there, and stake is the sum of its parts.
    function _booksAreRight() private view {
        (uint128 principal, uint128 rewards, uint128 slashed) = vault.liabilities();
        IStakeVault.Provider memory state = vault.providerOf(provider);
        assert(uint256(state.own) + state.delegated + state.unbonding == principal);
        assert(token.balanceOf(address(vault)) == uint256(principal) + rewards + slashed);
        assert(state.frozen <= principal);
    }

    /// Stake comes back to its staker to the last nano-token, after the unbonding time and not before.
    function check_stakeComesBackWhole(uint128 stake, uint128 asked, uint32 wait) public {
        vault.stake(provider, stake);
        uint32 ticket = vault.requestUnbond(provider, asked);
        assert(asked <= stake);
        _booksAreRight();
        uint256 before = token.balanceOf(address(this));
        vm.warp(START + uint256(wait));
        uint128 paid = vault.withdraw(provider, ticket);
        assert(wait >= 7 days);
        assert(paid == asked);
        assert(token.balanceOf(address(this)) == before + asked);
        assert(vault.providerOf(provider).own == stake - asked);
        _booksAreRight();
    }

    /// A slash freezes and takes what was asked for or what there is, from bonded stake and from the ticket alike, and not
    /// within the time for a dispute; nothing of it goes to who proposed it.
    function checkLong_aSlashTakesWhatIsAskedOrWhatThereIs(
        uint128 stake,
        uint128 unbonding,
        uint128 asked,
        uint32 wait,
        bytes32 r,
        bytes32 vs
    ) public {
        vault.stake(provider, stake);
        vault.requestUnbond(provider, unbonding);
        uint256 before = token.balanceOf(address(this));
        uint256 id = _propose(asked, r, vs);
        uint128 want = asked < stake ? asked : stake;
        assert(vault.providerOf(provider).frozen == want);
        _booksAreRight();
        vm.warp(START + uint256(wait));
        vault.finalizeSlash(id);
        assert(wait > 48 hours);
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        assert(slashed == want);
        assert(principal == stake - want);
        assert(vault.providerOf(provider).frozen == 0);
        assert(token.balanceOf(address(this)) == before);
        _booksAreRight();
    }

    /// What a slash has frozen is not withdrawn, also from a ticket whose time was over before.
    function checkLong_frozenStakeIsNotWithdrawn(
        uint128 stake,
        uint128 unbonding,
        uint128 asked,
        bytes32 r,
        bytes32 vs
    ) public {
        vault.stake(provider, stake);
        uint32 ticket = vault.requestUnbond(provider, unbonding);
        vm.warp(START + 30 days);
        _propose(asked, r, vs);
        uint128 frozen = vault.providerOf(provider).frozen;
        uint128 paid = vault.withdraw(provider, ticket);
        assert(paid <= stake - frozen);
        assert(paid <= unbonding);
        _booksAreRight();
    }

    /// A slash that is disputed and not upheld, or not decided, changes nothing; upheld, it takes no more than it froze.
    function check_aDisputedSlashTakesWhatIsUpheld(
        uint128 stake,
        uint128 asked,
        uint128 upheld,
        bool decided,
        bytes32 r,
        bytes32 vs
    ) public {
        vault.stake(provider, stake);
        uint256 id = _propose(asked, r, vs);
        uint128 frozen = vault.providerOf(provider).frozen;
        vault.disputeSlash(id, "counter");
        if (decided) vault.resolveSlash(id, upheld);
        if (!decided || upheld != 0) {
            vm.warp(START + 30 days);
            vault.finalizeSlash(id);
        }
        uint128 want = !decided ? 0 : upheld < frozen ? upheld : frozen;
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        assert(slashed == want);
        assert(principal == stake - want);
        assert(vault.providerOf(provider).frozen == 0);
        _booksAreRight();
    }

    /// From bonded stake and a ticket together a slash takes no more than it froze, and if it was disputed no more than was
    /// upheld. The ticket is of a thousand tokens: of any size is what checkLong_aSlashTakesWhatIsAskedOrWhatThereIs tries.
    function check_aSlashTakesNoMoreThanWasFrozenOrUpheld(
        uint128 stake,
        uint128 asked,
        uint128 upheld,
        bool disputed,
        bytes32 r,
        bytes32 vs
    ) public {
        vault.stake(provider, stake);
        vault.requestUnbond(provider, 1_000e9);
        uint256 id = _propose(asked, r, vs);
        uint128 frozen = vault.slashOf(id).frozen;
        if (disputed) {
            vault.disputeSlash(id, "counter");
            vault.resolveSlash(id, upheld);
        }
        vm.warp(START + 30 days);
        vault.finalizeSlash(id);
        (uint128 principal,, uint128 slashed) = vault.liabilities();
        assert(slashed <= frozen);
        assert(!disputed || slashed <= upheld);
        assert(uint256(principal) + slashed == stake);
        _booksAreRight();
    }

    /// @dev What anybody could try with a slash that is over; this contract is arbiter, guardian and staker.
    function _isOver(uint256 id, uint128 amount) private {
        (uint128 principal, uint128 rewards, uint128 slashed) = vault.liabilities();
        uint128 frozen = vault.providerOf(provider).frozen;
        (bool executed,) = address(vault).call(abi.encodeCall(vault.finalizeSlash, (id)));
        (bool cancelled,) = address(vault).call(abi.encodeCall(vault.cancelSlash, (id)));
        (bool resolved,) = address(vault).call(abi.encodeCall(vault.resolveSlash, (id, amount)));
        (bool disputed,) = address(vault).call(abi.encodeCall(vault.disputeSlash, (id, bytes32(0))));
        assert(!executed && !cancelled && !resolved && !disputed);
        (uint128 principalAfter, uint128 rewardsAfter, uint128 slashedAfter) = vault.liabilities();
        assert(principal == principalAfter && rewards == rewardsAfter && slashed == slashedAfter);
        assert(vault.providerOf(provider).frozen == frozen);
    }

    /// A slash that was executed is not executed again, nor disputed, resolved or cancelled, whenever that is tried.
    function check_anExecutedSlashNeverExecutesAgain(
        uint128 stake,
        uint128 asked,
        uint128 upheld,
        bool disputed,
        uint32 wait,
        uint32 more,
        bytes32 r,
        bytes32 vs
    ) public {
        vault.stake(provider, stake);
        uint256 id = _propose(asked, r, vs);
        if (disputed) {
            vault.disputeSlash(id, "counter");
            vault.resolveSlash(id, upheld);
        }
        vm.warp(START + uint256(wait));
        vault.finalizeSlash(id);
        vm.warp(START + uint256(wait) + more);
        _isOver(id, upheld);
    }

    /// The same of a slash that was cancelled: by the guardian, by the arbiter, or because nobody has decided.
    function check_aCancelledSlashNeverExecutes(
        uint128 stake,
        uint128 asked,
        uint128 upheld,
        bool disputed,
        bool decided,
        uint32 more,
        bytes32 r,
        bytes32 vs
    ) public {
        vault.stake(provider, stake);
        uint256 id = _propose(asked, r, vs);
        if (disputed) vault.disputeSlash(id, "counter");
        if (!disputed) {
            vault.cancelSlash(id);
        } else if (decided) {
            vault.resolveSlash(id, 0);
        } else {
            vm.warp(START + 30 days);
            vault.finalizeSlash(id);
        }
        vm.warp(START + 30 days + uint256(more));
        _isOver(id, upheld);
        (,, uint128 slashed) = vault.liabilities();
        assert(slashed == 0);
    }

    /// Only what the lane's slash signer signed is proposed.
    function check_onlyWhatTheSlashSignerSignedIsProposed(uint128 stake, uint128 asked, bytes32 r, bytes32 vs) public {
        vault.stake(provider, stake);
        _propose(asked, r, vs);
        bytes32 content = keccak256(
            abi.encode(
                vault.SLASH_TYPEHASH(),
                LANE,
                bytes32("incident"),
                provider,
                asked,
                bytes32("evidence"),
                type(uint64).max
            )
        );
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Gridstake StakeVault"),
                keccak256("1"),
                block.chainid,
                address(vault)
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, content));
        bytes32 s = vs & bytes32(type(uint256).max >> 1);
        assert(ecrecover(digest, uint8(uint256(vs) >> 255) + 27, r, s) == SLASH_SIGNER);
    }

    /// A delegation is stake of the provider's, and comes back whole to who alone has delegated.
    function check_aDelegationComesBackWhole(uint128 stake, uint128 delegated, uint32 wait) public {
        vault.stake(provider, stake);
        uint128 shares = vault.delegate(provider, delegated);
        _booksAreRight();
        uint32 ticket = vault.requestUndelegate(provider, shares);
        _booksAreRight();
        vm.warp(START + uint256(wait));
        uint128 paid = vault.withdraw(provider, ticket);
        assert(wait >= 7 days);
        assert(paid == delegated);
        _booksAreRight();
    }
}
