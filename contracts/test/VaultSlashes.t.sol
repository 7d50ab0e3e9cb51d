// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

/// @dev How a slash goes from its proposal to its end.
contract VaultSlashesTest is VaultFixture {
    function setUp() public {
        _deploy(18);
        _stake(1_000 * TOKEN);
    }

    // ---- undisputed

    function test_anUndisputedSlashIsExecutedAfter48Hours() public {
        uint64 disputeUntil = _now() + 48 hours;
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashProposed(1, provider, "i", LANE, 150 * TOKEN, "evidence", disputeUntil);
        uint256 id = _propose("i", 150 * TOKEN);
        _same(_frozen(), 150 * TOKEN, "frozen");
        _same(vault.slashIdOf(LANE, "i"), id, "found by its incident");
        _later(48 hours);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TooEarly.selector, disputeUntil));
        vault.finalizeSlash(id);
        _later(1);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashExecuted(id, provider, 150 * TOKEN, 0);
        vault.finalizeSlash(id);
        _sameState(id, IStakeVault.SlashState.Executed);
        _same(_own(), 850 * TOKEN, "cut");
        _same(_frozen(), 0, "nothing is frozen any more");
        vm.expectRevert(IStakeVault.WrongState.selector);
        vault.finalizeSlash(id);
    }

    function test_whatIsCutGoesToTheTreasuryAndTheProposerGetsNothing() public {
        uint256 id = _propose("i", 150 * TOKEN);
        _later(DISPUTE + 1);
        vm.prank(STRANGER);
        vault.finalizeSlash(id);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashedFundsPaid(TREASURY, 150 * TOKEN);
        vm.prank(STRANGER);
        _same(vault.paySlashedFunds(), 150 * TOKEN, "amount");
        _same(token.balanceOf(TREASURY), 150e18, "treasury");
        _same(token.balanceOf(STRANGER), 0, "who proposed, finalized and paid");
        _same(token.balanceOf(vm.addr(SLASH_KEY)), 0, "who signed");
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.paySlashedFunds();
    }

    // ---- disputed

    function _balances() private view returns (bytes32) {
        IStakeVault.Provider memory p = vault.providerOf(provider);
        (uint128 principal, uint128 rewards, uint128 slashed) = vault.liabilities();
        return keccak256(
            abi.encode(
                p,
                principal,
                rewards,
                slashed,
                vault.ticketsOf(provider, STAKER),
                vault.ticketsOf(provider, DELEGATOR),
                _worth(DELEGATOR),
                token.balanceOf(address(vault)),
                token.balanceOf(STAKER),
                token.balanceOf(TREASURY)
            )
        );
    }

    function test_afterADisputeThatIsWonEveryBalanceIsAsBefore() public {
        _delegate(DELEGATOR, 333 * TOKEN + 1);
        _unbond(77 * TOKEN);
        _undelegate(DELEGATOR, 11 * TOKEN);
        bytes32 before = _balances();
        uint256 id = _propose("i", 200 * TOKEN);
        _true(_balances() != before, "frozen meanwhile");
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashDisputed(id, provider, "counter", _now() + 7 days);
        _dispute(id);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashResolved(id, provider, 0);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashCancelled(id, provider, IStakeVault.CancelWhy.NotUpheld);
        _resolve(id, 0);
        _same(_balances(), before, "to the wei");
        vm.expectRevert(IStakeVault.WrongState.selector);
        vault.finalizeSlash(id);
    }

    function test_aDisputeThatNobodyDecidesIsWon() public {
        bytes32 before = _balances();
        uint256 id = _propose("i", 200 * TOKEN);
        _dispute(id);
        uint64 resolveUntil = vault.slashOf(id).resolveUntil;
        _later(7 days);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TooEarly.selector, resolveUntil));
        vault.finalizeSlash(id);
        _later(1);
        vm.prank(ARBITER);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TooLate.selector, resolveUntil));
        vault.resolveSlash(id, 1);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashCancelled(id, provider, IStakeVault.CancelWhy.NotDecided);
        vault.finalizeSlash(id);
        _same(_balances(), before, "to the wei");
    }

    function test_anUpheldPartIsTakenAndTheRestIsFree() public {
        uint256 id = _propose("i", 200 * TOKEN);
        _dispute(id);
        _resolve(id, 50 * TOKEN);
        _sameState(id, IStakeVault.SlashState.Upheld);
        vault.finalizeSlash(id);
        _same(_own(), 950 * TOKEN, "what was upheld");
        _same(_frozen(), 0, "the rest is free");
    }

    function test_theArbiterCannotTakeMoreThanWasFrozen() public {
        uint256 id = _propose("i", 200 * TOKEN);
        _dispute(id);
        _resolve(id, type(uint128).max);
        _same(vault.slashOf(id).upheld, 200 * TOKEN, "all that is frozen");
        vault.finalizeSlash(id);
        _same(_own(), 800 * TOKEN, "and no more");
    }

    function test_onlyStakerAndOperatorDisputeAndOnlyInTime() public {
        uint256 id = _propose("i", 10 * TOKEN);
        vm.prank(BENEFICIARY);
        vm.expectRevert(IStakeVault.NotAuthorised.selector);
        vault.disputeSlash(id, 0);
        _later(DISPUTE);
        vm.prank(STAKER);
        vault.disputeSlash(id, "last second");
        _same(vault.slashOf(id).counterEvidence, "last second", "counter-evidence");
        vm.prank(STAKER);
        vm.expectRevert(IStakeVault.WrongState.selector);
        vault.disputeSlash(id, "again");
        id = _propose("j", 10 * TOKEN);
        _later(DISPUTE + 1);
        vm.prank(OPERATOR);
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.TooLate.selector, _now() - 1));
        vault.disputeSlash(id, 0);
    }

    function test_onlyADisputedSlashIsResolved() public {
        uint256 id = _propose("i", 10 * TOKEN);
        vm.prank(ARBITER);
        vm.expectRevert(IStakeVault.WrongState.selector);
        vault.resolveSlash(id, 1);
    }

    function test_deadlinesAreStoredWhenTheyAreMade() public {
        uint256 id = _propose("i", 10 * TOKEN);
        _set(StakeVaultParameters.Parameter.DisputeTime, 30 days);
        _set(StakeVaultParameters.Parameter.ResolveTime, 1 hours);
        _later(DISPUTE);
        _dispute(id);
        _set(StakeVaultParameters.Parameter.ResolveTime, 30 days);
        _later(1 hours + 1);
        vault.finalizeSlash(id);
        _sameState(id, IStakeVault.SlashState.Cancelled);
    }

    // ---- guardian

    function test_theGuardianCancelsWhatIsNotExecuted() public {
        bytes32 before = _balances();
        uint256[3] memory ids = [_propose("i", TOKEN), _propose("j", TOKEN), _propose("k", TOKEN)];
        _dispute(ids[1]);
        _dispute(ids[2]);
        _resolve(ids[2], TOKEN);
        for (uint256 i = 0; i < 3; i++) {
            vm.expectEmit(true, true, true, true, address(vault));
            emit IStakeVault.SlashCancelled(ids[i], provider, IStakeVault.CancelWhy.Guardian);
            vm.prank(GUARDIAN);
            vault.cancelSlash(ids[i]);
            vm.prank(GUARDIAN);
            vm.expectRevert(IStakeVault.WrongState.selector);
            vault.cancelSlash(ids[i]);
        }
        _same(_balances(), before, "as before");
        _slash("l", TOKEN);
        vm.prank(GUARDIAN);
        vm.expectRevert(IStakeVault.WrongState.selector);
        vault.cancelSlash(4);
    }

    function test_noPauseStopsASlash() public {
        vm.startPrank(GUARDIAN);
        vault.setPaused(StakeVaultParameters.Path.Inflow, true);
        vault.setPaused(StakeVaultParameters.Path.Withdrawals, true);
        vault.setPaused(StakeVaultParameters.Path.Rewards, true);
        vm.stopPrank();
        uint256 id = _propose("i", 10 * TOKEN);
        _dispute(id);
        _resolve(id, 10 * TOKEN);
        vault.finalizeSlash(id);
        vault.paySlashedFunds();
        _same(token.balanceOf(TREASURY), 10e18, "paid");
    }

    // ---- authority

    function _expectBadSignature(uint256 key, bytes32 digest, uint32 lane, uint128 amount) private {
        (bytes32 r, bytes32 vs) = _sign(key, digest);
        uint64 until = _now();
        vm.expectRevert(IStakeVault.BadSignature.selector);
        vault.proposeSlash(lane, "i", provider, amount, "evidence", until, r, vs);
    }

    function test_onlyWhatTheSlashSignerSignedIsProposed() public {
        bytes32 digest = _slashDigest(LANE, "i", provider, TOKEN, "evidence", _now());
        _expectBadSignature(SIGNER_KEY, digest, LANE, TOKEN);
        _expectBadSignature(SLASH_KEY, digest, LANE, TOKEN + 1);
        _expectBadSignature(SLASH_KEY, digest, LANE + 1, TOKEN);
        _expectBadSignature(SLASH_KEY, _slashDigest(LANE, "i", provider, TOKEN, "other", _now()), LANE, TOKEN);
        vm.expectRevert(IStakeVault.BadSignature.selector);
        vault.proposeSlash(LANE + 1, "i", provider, TOKEN, "evidence", uint64(block.timestamp), 0, 0);
        vm.chainId(4242);
        _expectBadSignature(SLASH_KEY, digest, LANE, TOKEN);
        vm.chainId(31337);
        vm.prank(LANE_ADMIN);
        vault.setSlashSigner(LANE, address(0));
        _expectBadSignature(SLASH_KEY, digest, LANE, TOKEN);
    }

    function test_aProposalExpires() public {
        uint64 until = _now();
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, "i", provider, TOKEN, "evidence", until));
        _later(1);
        vm.expectRevert(IStakeVault.Expired.selector);
        vault.proposeSlash(LANE, "i", provider, TOKEN, "evidence", until, r, vs);
    }

    function test_anIncidentIsProposedOnceAndAnotherOccurrenceIsAnother() public {
        uint256 id = _propose("i", TOKEN);
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, "i", provider, 2 * TOKEN, "evidence", _now()));
        uint64 until = _now();
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.IncidentKnown.selector, id));
        vault.proposeSlash(LANE, "i", provider, 2 * TOKEN, "evidence", until, r, vs);
        _same(_propose("i, second time", TOKEN), id + 1, "another incident");
    }

    function test_anUnknownSlashIsRefused() public {
        vm.expectRevert(IStakeVault.UnknownSlash.selector);
        vault.finalizeSlash(9);
        vm.expectRevert(IStakeVault.UnknownSlash.selector);
        vault.slashOf(0);
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, "i", 9, TOKEN, "evidence", _now()));
        uint64 until = _now();
        vm.expectRevert(abi.encodeWithSelector(IStakeVault.UnknownProvider.selector, uint32(9)));
        vault.proposeSlash(LANE, "i", 9, TOKEN, "evidence", until, r, vs);
        (r, vs) = _sign(SLASH_KEY, _slashDigest(LANE, "i", provider, 0, "evidence", until));
        vm.expectRevert(IStakeVault.AmountZero.selector);
        vault.proposeSlash(LANE, "i", provider, 0, "evidence", until, r, vs);
    }
}
