// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {BatchFormat, Content, Group, Job, Statement} from "./support/BatchFormat.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";
import {Vm} from "./support/Test.sol";

/// @dev What a batch states beside what it pays.
contract SettlementStatementsTest is SettlementFixture {
    uint32 private payer;
    uint32 private provider;

    function setUp() public {
        _deploy(18);
        payer = _payer(1_000);
        provider = _provider();
    }

    /// @dev Each field another value in each statement, none of them zero, the first bit of each set in some.
    function _statements(uint256 count) private pure returns (Statement[] memory list) {
        list = new Statement[](count);
        for (uint256 i = 0; i < count; i++) {
            list[i] = Statement(
                uint8(255 - i), uint32(type(uint32).max - 7 * i), keccak256(abi.encode("s", i)), keccak256(abi.encode("c", i))
            );
        }
    }

    function _alone(uint256 count) private pure returns (Content memory c) {
        c.width = 1;
        c.statements = _statements(count);
    }

    /// @dev Settles and gives its logs.
    function _logsOf(bytes memory data) private returns (Vm.Log[] memory) {
        vm.recordLogs();
        _settle(data, "root");
        return vm.getRecordedLogs();
    }

    /// @dev The last logs are the statements of the batch that was settled last, and before them lies its BatchSettled.
    function _areTheLast(Vm.Log[] memory logs, Statement[] memory list) private view {
        uint256 first = logs.length - list.length;
        _same(logs[first - 1].topics[0], ISettlement.BatchSettled.selector, "after what was settled");
        for (uint256 i = 0; i < list.length; i++) {
            Vm.Log memory log = logs[first + i];
            _same(log.emitter, address(settlement), "emitter");
            _same(log.topics.length, 4, "topics");
            _same(log.topics[0], keccak256("Stated(uint32,uint8,bytes32,uint64,uint32,bytes32)"), "event");
            _same(uint256(log.topics[1]), LANE, "lane");
            _same(uint256(log.topics[2]), list[i].kind, "kind");
            _same(log.topics[3], list[i].subject, "subject");
            _same(keccak256(log.data), keccak256(abi.encode(seq, list[i].number, list[i].content)), "seq, number, content");
        }
    }

    function test_eachStatementIsAnEventAfterWhatWasSettledInTheOrderOfTheData() public {
        Content memory c = _single(42, payer, provider, 300);
        c.statements = _statements(3);
        Vm.Log[] memory logs = _logsOf(BatchFormat.encode(c));
        _same(logs.length, 4, "one of the batch and one a statement");
        _areTheLast(logs, c.statements);
        _same(settlement.creditOf(provider), 300, "and the job is paid");
    }

    function test_aBatchMayHoldStatementsAlone() public {
        Vm.Log[] memory logs = _logsOf(BatchFormat.encode(_alone(1)));
        _same(logs.length, 2, "the batch and its statement");
        _areTheLast(logs, _statements(1));
        (bytes32 head,, uint256 summary, bytes memory amounts) =
            abi.decode(logs[0].data, (bytes32, bytes32, uint256, bytes));
        _same(head, chain, "the chain of batches goes on");
        _same(summary, 0, "nothing is paid and nothing left out");
        _same(amounts.length, 0, "no group");
    }

    function test_aBatchHoldsUpTo255Statements() public {
        Content memory c = _single(1, payer, provider, 5);
        c.statements = _statements(255);
        Vm.Log[] memory logs = _logsOf(BatchFormat.encode(c));
        _same(logs.length, 256, "all of them");
        _areTheLast(logs, c.statements);
    }

    function test_equalStatementsOfOneBatchAreAllStated() public {
        Content memory c = _alone(2);
        c.statements[1] = c.statements[0];
        _areTheLast(_logsOf(BatchFormat.encode(c)), c.statements);
    }

    function test_duplicatesAndGroupsLeftOutDoNotDisturbStatements() public {
        _settle(_single(3, payer, provider, 10));
        Content memory c = _single(0, payer, provider, 0);
        c.groupBits = 2;
        c.groups = new Group[](3);
        c.groups[0] = Group(payer, provider, PRICE_NANO);
        c.groups[1] = Group(payer, 99, PRICE_NANO);
        c.groups[2] = Group(payer, provider, 1_000 * PRICE_NANO);
        c.jobs = new Job[](4);
        c.jobs[0] = Job(3, 0, 10); // paid before
        c.jobs[1] = Job(4, 1, 11); // of nobody
        c.jobs[2] = Job(5, 0, 12);
        c.jobs[3] = Job(230, 2, 13); // more than there is
        c.statements = _statements(2);
        Vm.Log[] memory logs = _logsOf(BatchFormat.encode(c));
        _same(logs.length, 6, "a duplicate, two groups, the batch, two statements");
        _same(logs[0].topics[0], ISettlement.JobsSkipped.selector, "duplicate");
        _same(logs[1].topics[0], ISettlement.GroupSkipped.selector, "nobody");
        _same(logs[2].topics[0], ISettlement.GroupSkipped.selector, "too much");
        _areTheLast(logs, c.statements);
        _same(settlement.creditOf(provider), 22, "what could be paid is");
    }

    function test_whatABatchStatesChangesNoAccount() public {
        Content memory c = _single(7, payer, provider, 100);
        c.statements = _statements(4);
        _settle(c);
        _same(_balance(payer), 900, "payer");
        _same(settlement.creditOf(provider), 100, "provider");
        _same(settlement.held(), 1_000, "held");
        _true(settlement.isPaid(LANE, 7) && !settlement.isPaid(LANE, 8), "bits");
    }

    function test_aStatementIsMadeOnceBecauseABatchIs() public {
        bytes memory data = BatchFormat.encode(_alone(1));
        _settle(data, "root");
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, "root", data, type(uint64).max));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.BadSeq.selector, uint64(2)));
        settlement.settle(LANE, 1, 0, "root", type(uint64).max, r, vs, data);
    }

    function test_nobodyChangesWhatWasSignedToBeStated() public {
        bytes memory data = BatchFormat.encode(_alone(1));
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, "root", data, type(uint64).max));
        data[data.length - 1] ^= 0x01;
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, "root", type(uint64).max, r, vs, data);
    }

    // ---- refusals

    function _expectRefused(bytes memory data) private {
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, seq + 1, chain, 0, data, type(uint64).max));
        vm.expectRevert(ISettlement.BadEncoding.selector);
        settlement.settle(LANE, seq + 1, chain, 0, type(uint64).max, r, vs, data);
    }

    function _cut(bytes memory data, uint256 length) private pure returns (bytes memory shorter) {
        shorter = new bytes(length);
        for (uint256 i = 0; i < length; i++) {
            shorter[i] = data[i];
        }
    }

    function test_refusesAnotherNumberOfStatementsThanThereAre() public {
        Content memory c = _single(1, payer, provider, 5);
        c.statements = _statements(2);
        for (uint256 s = 0; s < 256; s++) {
            if (s == 2) continue;
            bytes memory data = BatchFormat.encode(c);
            data[6] = bytes1(uint8(s));
            _expectRefused(data);
        }
    }

    function test_refusesAStatementThatIsCutShort() public {
        bytes memory data = BatchFormat.encode(_alone(2));
        for (uint256 less = 1; less <= 2 * 69; less++) {
            _expectRefused(_cut(data, data.length - less));
        }
    }

    function test_refusesWhatFollowsTheLastStatement() public {
        bytes memory data = BatchFormat.encode(_alone(1));
        _expectRefused(bytes.concat(data, hex"00"));
        _expectRefused(bytes.concat(data, new bytes(69)));
    }

    function test_refusesAHeaderWithoutTheNumberOfStatements() public {
        _expectRefused(hex"010000000000");
    }

    function test_bytesThatOneCouldTakeForRecordsAreNotTakenForAStatement() public {
        // 69 records of one byte and no statement, or one statement and no record: the masks decide.
        Content memory c;
        c.width = 1;
        c.jobs = new Job[](69);
        for (uint64 i = 0; i < 69; i++) {
            c.jobs[i].jobNo = i;
        }
        bytes memory data = BatchFormat.encode(c);
        data[6] = 0x01;
        _expectRefused(data);
    }
}
