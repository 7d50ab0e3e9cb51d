// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {BatchFormat, Content, Group, Job} from "./support/BatchFormat.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";
import {Vm} from "./support/Test.sol";

contract SettlementBatchesTest is SettlementFixture {
    uint32 internal payer;
    uint32 internal other;
    uint32 internal provider;
    uint32 internal second;

    function setUp() public {
        _deploy(18);
        payer = _payer(1_000);
        other = _payer(500);
        provider = _provider();
        second = _provider();
    }

    // ---- payment

    function test_creditsTheProviderWhatThePayerIsDebited() public {
        _settle(_single(42, payer, provider, 300));
        _same(_balance(payer), 700, "payer");
        _same(settlement.creditOf(provider), 300, "provider");
        _same(_balance(other), 500, "the neighbour in the slot");
        _true(settlement.isPaid(LANE, 42) && !settlement.isPaid(LANE, 41) && !settlement.isPaid(LANE, 43), "bits");
        _same(settlement.held(), 1_500, "held does not change");
    }

    function test_amountIsFlooredOncePerGroup() public {
        Content memory c = _single(0, payer, provider, 1);
        c.groups[0].price = 600_000_000; // 0.6 nano-tokens a unit
        c.jobs = new Job[](3);
        for (uint64 i = 0; i < 3; i++) {
            c.jobs[i] = Job(i, 0, 1);
        }
        _settle(c);
        _same(settlement.creditOf(provider), 1, "floor(1.8), and not 3 * floor(0.6)");
    }

    function test_emissionsComeFromTheRewardAccount() public {
        settlement.deposit(LANE, 0, 80);
        _settle(_single(1, 0, provider, 30));
        _same(_balance(0), 50, "rewards left");
        _same(settlement.creditOf(provider), 30, "credit");
    }

    function test_anEmptyRewardAccountPaysNothingAndBlocksNothing() public {
        Content memory c = _single(0, payer, provider, 0);
        c.groups = new Group[](2);
        c.groups[0] = Group(payer, provider, PRICE_NANO);
        c.groups[1] = Group(0, provider, PRICE_NANO);
        c.jobs = new Job[](2);
        c.jobs[0] = Job(0, 0, 10);
        c.jobs[1] = Job(1, 1, 10);
        _settle(c);
        _same(settlement.creditOf(provider), 10, "usage only");
        _true(settlement.isPaid(LANE, 0) && !settlement.isPaid(LANE, 1), "bits");
    }

    function test_aLaneCannotTouchAccountsOfAnother() public {
        _openLane(8);
        vm.prank(STRANGER);
        uint32 theirs = settlement.registerPayer(8);
        settlement.deposit(8, theirs, 100);
        _same(theirs, payer, "same number, other account");
        _settle(_single(3, payer, provider, 60));
        _same(settlement.balanceOf(8, theirs), 100, "untouched");
        _true(!settlement.isPaid(8, 3), "numbers belong to a lane");
    }

    function test_fieldsOfASlotDoNotTouchEachOtherAtTheTopOfTheRange() public {
        uint64 room = type(uint64).max / 2 - settlement.held();
        settlement.deposit(LANE, payer, room);
        vm.expectRevert(ISettlement.Overflow.selector);
        settlement.deposit(LANE, other, 1);
        Content memory c = _single(5, payer, provider, _balance(payer) >> 20);
        c.groups[0].price = PRICE_NANO << 20;
        _settle(c);
        _true(settlement.creditOf(provider) > 9e18, "nearly everything");
        _same(uint256(settlement.creditOf(provider)) + _balance(payer) + 500, type(uint64).max / 2, "nothing lost");
        _same(_balance(other), 500, "payer beside it");
        _same(settlement.creditOf(second), 0, "provider beside it");
    }

    function test_jobNumbersReachToTheLastWord() public {
        uint64 last = uint64(type(uint32).max) * 224 + 223;
        _settle(_single(last, payer, provider, 1));
        _true(settlement.isPaid(LANE, last), "last number");
        _true(!settlement.isPaid(LANE, last + 1) && !settlement.isPaid(LANE, type(uint64).max), "beyond it nothing is");
    }

    function test_anEmptyBatchAdvancesTheChain() public {
        Content memory c;
        c.width = 1;
        _settle(c);
        (uint64 s, bytes32 h) = settlement.head(LANE);
        _same(s, 1, "seq");
        _same(h, chain, "chain hash");
    }

    function test_aRecordWithoutUnitsOfNoGroupIsMarkedOnly() public {
        Content memory c = _single(9, payer, provider, 0);
        c.jobs[0].group = 1; // g = 1, G = 1
        _settle(c);
        _true(settlement.isPaid(LANE, 9), "marked");
        _same(_balance(payer), 1_000, "nothing moved");
    }

    // ---- what is left out

    function _expectGroupSkipped(uint32 payer_, uint32 provider_, ISettlement.Why why) private {
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.GroupSkipped(LANE, seq + 1, provider_, payer_, why);
    }

    function test_anUnknownProviderIsSkipped() public {
        _expectGroupSkipped(payer, 99, ISettlement.Why.UnknownProvider);
        _settle(_single(1, payer, 99, 5));
        _expectGroupSkipped(payer, 0, ISettlement.Why.UnknownProvider);
        _settle(_single(1, payer, 0, 5));
        _true(!settlement.isPaid(LANE, 1), "still payable");
        _same(_balance(payer), 1_000, "nothing moved");
    }

    function test_aCoolingProviderIsSkippedAndPayableLater() public {
        uint32 cooling = vault.register(BENEFICIARY, _now() + 1 days);
        _expectGroupSkipped(payer, cooling, ISettlement.Why.ProviderCooling);
        _settle(_single(1, payer, cooling, 5));
        _later(1 days);
        settlement.activateProvider(cooling);
        _settle(_single(1, payer, cooling, 5));
        _same(settlement.creditOf(cooling), 5, "paid");
    }

    function test_anUnknownPayerIsSkipped() public {
        _expectGroupSkipped(77, provider, ISettlement.Why.UnknownPayer);
        _settle(_single(1, 77, provider, 5));
    }

    function test_aPayerWithoutEnoughIsSkippedWhole() public {
        _expectGroupSkipped(payer, provider, ISettlement.Why.Insufficient);
        _settle(_single(1, payer, provider, 1_001));
        _same(_balance(payer), 1_000, "nothing moved");
        settlement.deposit(LANE, payer, 1);
        _settle(_single(1, payer, provider, 1_001));
        _same(_balance(payer), 0, "paid after a top-up, to the last nano-token");
    }

    function test_aPricePastAnyBalanceIsInsufficient() public {
        Content memory c = _single(1, payer, provider, (1 << 47) - 1);
        c.groups[0].price = type(uint64).max;
        _expectGroupSkipped(payer, provider, ISettlement.Why.Insufficient);
        _settle(c);
    }

    function test_aJobIsPaidOnceEvenIfTwoBatchesHoldIt() public {
        _settle(_single(500, payer, provider, 10));
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.JobsSkipped(LANE, 2, 2, uint224(1) << 52, ISettlement.Why.Duplicate);
        _settle(_single(500, other, second, 10));
        _same(settlement.creditOf(second), 0, "not again, whoever pays");
        _same(_balance(other), 500, "not debited");
    }

    function test_onePoisonedGroupDoesNotStopTheRest() public {
        Content memory c = _single(0, payer, provider, 0);
        c.groups = new Group[](2);
        c.groups[0] = Group(payer, provider, PRICE_NANO);
        c.groups[1] = Group(payer, 99, PRICE_NANO);
        c.jobs = new Job[](3);
        c.jobs[0] = Job(223, 0, 7);
        c.jobs[1] = Job(224, 1, 9);
        c.jobs[2] = Job(225, 0, 11);
        _settle(c);
        _same(settlement.creditOf(provider), 18, "the others are paid");
        _true(!settlement.isPaid(LANE, 224), "the poisoned one stays payable");
        c.groups[1].provider = second;
        _settle(c);
        _same(settlement.creditOf(provider), 18, "not again");
        _same(settlement.creditOf(second), 9, "the mended one is paid");
    }

    function test_theEventTellsWhatWasPaid() public {
        Content memory c = _single(0, payer, provider, 0);
        c.groupBits = 2;
        c.groups = new Group[](3);
        c.groups[0] = Group(payer, provider, PRICE_NANO);
        c.groups[1] = Group(payer, 99, PRICE_NANO);
        c.groups[2] = Group(other, second, PRICE_NANO);
        c.jobs = new Job[](4);
        for (uint64 i = 0; i < 3; i++) {
            c.jobs[i] = Job(i, i, 10 + i);
        }
        c.jobs[3] = Job(3, 0, 100);
        bytes memory data = BatchFormat.encode(c);
        bytes32 root = keccak256("root");
        bytes32 head = keccak256(abi.encode(bytes32(0), LANE, uint64(1), root, keccak256(data)));
        vm.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.BatchSettled(
            LANE,
            1,
            head,
            root,
            uint256(122) << 64 | uint256(3) << 32 | 1,
            abi.encodePacked(uint64(110), uint64(1) << 63, uint64(12))
        );
        vm.recordLogs();
        _settle(data, root);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        // The log is written by hand: byte for byte what Solidity would write, its length included.
        bytes memory want = abi.encode(
            head,
            root,
            uint256(122) << 64 | uint256(3) << 32 | 1,
            abi.encodePacked(uint64(110), uint64(1) << 63, uint64(12))
        );
        _same(keccak256(logs[logs.length - 1].data), keccak256(want), "log data");
    }

    // ---- refusals of a whole batch

    function _expectRefused(bytes memory reason, uint64 seq_, bytes32 prev, uint64 validUntil, bytes memory data)
        private
    {
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, seq_, prev, 0, data, validUntil));
        vm.expectRevert(reason);
        settlement.settle(LANE, seq_, prev, 0, validUntil, r, vs, data);
    }

    function _data() private view returns (bytes memory) {
        return BatchFormat.encode(_single(1, payer, provider, 5));
    }

    function test_refusesAnotherSequenceNumber() public {
        bytes memory want = abi.encodeWithSelector(ISettlement.BadSeq.selector, uint64(1));
        _expectRefused(want, 0, 0, type(uint64).max, _data());
        _expectRefused(want, 2, 0, type(uint64).max, _data());
        _settle(_data(), 0);
        want = abi.encodeWithSelector(ISettlement.BadSeq.selector, uint64(2));
        _expectRefused(want, 1, 0, type(uint64).max, _data());
    }

    function test_refusesAnotherPredecessor() public {
        bytes memory want = abi.encodeWithSelector(ISettlement.BadPrev.selector, bytes32(0));
        _expectRefused(want, 1, keccak256("fork"), type(uint64).max, _data());
    }

    function test_refusesWhatHasExpired() public {
        _expectRefused(abi.encodeWithSelector(ISettlement.Expired.selector), 1, 0, _now() - 1, _data());
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, 0, _data(), _now()));
        settlement.settle(LANE, 1, 0, 0, _now(), r, vs, _data());
    }

    function test_refusesAnyContentThatWasNotSigned() public {
        bytes memory data = _data();
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, 0, data, type(uint64).max));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, keccak256("root"), type(uint64).max, r, vs, data);
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max - 1, r, vs, data);
        data[data.length - 1] ^= 0x01;
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, r, vs, data);
    }

    function test_refusesAnotherSigner() public {
        (bytes32 r, bytes32 vs) = _sign(0xBAD, _digest(LANE, 1, 0, 0, _data(), type(uint64).max));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, r, vs, _data());
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, 0, 0, _data());
    }

    function test_refusesASignatureForAnotherLane() public {
        _openLane(8);
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(8, 1, 0, 0, _data(), type(uint64).max));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, r, vs, _data());
    }

    function test_refusesASignatureForAnotherChain() public {
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, 0, _data(), type(uint64).max));
        vm.chainId(4242);
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, r, vs, _data());
    }

    function test_refusesMalformedData() public {
        bytes memory bad = abi.encodeWithSelector(ISettlement.BadEncoding.selector);
        bytes memory good = _data();
        _expectRefused(bad, 1, 0, type(uint64).max, "");
        _expectRefused(bad, 1, 0, type(uint64).max, bytes.concat(good, hex"00"));
        bytes memory shorter = new bytes(good.length - 1);
        for (uint256 i = 0; i < shorter.length; i++) {
            shorter[i] = good[i];
        }
        _expectRefused(bad, 1, 0, type(uint64).max, shorter);
        _expectRefused(bad, 1, 0, type(uint64).max, hex"00000000000000"); // W = 0
        _expectRefused(bad, 1, 0, type(uint64).max, hex"07000000000000"); // W = 7
        _expectRefused(bad, 1, 0, type(uint64).max, hex"060b0000000000"); // g = 11
        _expectRefused(bad, 1, 0, type(uint64).max, hex"01090000000000"); // g > 8 W
        _expectRefused(bad, 1, 0, type(uint64).max, bytes.concat(hex"01000002000000", new bytes(32))); // G > 2^g
        _expectRefused(bad, 1, 0, type(uint64).max, hex"01000000ffff00"); // K words that are not there
    }

    function test_refusesWordsOutOfOrder() public {
        Content memory c = _single(300, payer, provider, 5);
        c.jobs = new Job[](2);
        c.jobs[0] = Job(300, 0, 1);
        c.jobs[1] = Job(3, 0, 1);
        bytes memory bad = abi.encodeWithSelector(ISettlement.BadEncoding.selector);
        _expectRefused(bad, 1, 0, type(uint64).max, BatchFormat.encode(c));
        bytes32 word = bytes32(uint256(1) << 224 | 1);
        bytes memory twice = abi.encodePacked(
            hex"01000001000200", word, word, payer, provider, PRICE_NANO, uint8(1), uint8(1)
        );
        _expectRefused(bad, 1, 0, type(uint64).max, twice);
    }

    function test_refusesUnitsOfAGroupThatIsNotThere() public {
        Content memory c = _single(1, payer, provider, 5);
        c.jobs[0].group = 1;
        bytes memory bad = abi.encodeWithSelector(ISettlement.BadEncoding.selector);
        _expectRefused(bad, 1, 0, type(uint64).max, BatchFormat.encode(c));
    }

    function test_refusesAClosedLaneAndAnUnknownOne() public {
        vm.prank(GUARDIAN);
        settlement.closeLane(LANE);
        _expectRefused(
            abi.encodeWithSelector(ISettlement.LaneNotActive.selector, LANE), 1, 0, type(uint64).max, _data()
        );
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(9, 1, 0, 0, _data(), type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneNotActive.selector, uint32(9)));
        settlement.settle(9, 1, 0, 0, type(uint64).max, r, vs, _data());
    }

    function test_refusesWhilePaused() public {
        vm.prank(GUARDIAN);
        settlement.pause(ISettlement.Path.Settle);
        _true(settlement.settlePaused() && !settlement.claimPaused() && !settlement.withdrawPaused(), "one path");
        _expectRefused(abi.encodeWithSelector(ISettlement.Paused.selector), 1, 0, type(uint64).max, _data());
        vm.prank(GUARDIAN);
        settlement.unpause(ISettlement.Path.Settle);
        _settle(_data(), 0);
    }

    // ---- receipts

    function test_provesAReceiptAgainstTheHead() public {
        bytes32 leaf = keccak256("leaf");
        bytes32 sibling = keccak256("sibling");
        bytes32 root =
            leaf < sibling ? keccak256(abi.encodePacked(leaf, sibling)) : keccak256(abi.encodePacked(sibling, leaf));
        bytes memory first = BatchFormat.encode(_single(1, payer, provider, 1));
        bytes memory next = BatchFormat.encode(_single(2, payer, provider, 1));
        _settle(first, root);
        _settle(next, keccak256("other root"));
        ISettlement.Link[] memory links = new ISettlement.Link[](2);
        links[0] = ISettlement.Link(1, root, keccak256(first));
        links[1] = ISettlement.Link(2, keccak256("other root"), keccak256(next));
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = sibling;
        _true(settlement.receiptInChain(LANE, 0, links, leaf, proof), "there");
        _true(!settlement.receiptInChain(LANE, 0, links, keccak256("no leaf"), proof), "another leaf is not");
        _true(!settlement.receiptInChain(LANE, chain, new ISettlement.Link[](0), leaf, proof), "no links prove nothing");
        links[1].usageRoot = 0;
        _true(!settlement.receiptInChain(LANE, 0, links, leaf, proof), "links must lead to the head");
    }
}
