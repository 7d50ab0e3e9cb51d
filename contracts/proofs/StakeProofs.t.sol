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
