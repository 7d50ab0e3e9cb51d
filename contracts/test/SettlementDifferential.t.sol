// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {BatchFormat, Content, Group, Job, Statement} from "./support/BatchFormat.sol";
import {PlainSettlement} from "./support/PlainSettlement.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";
import {Vm} from "./support/Test.sol";

/// @dev The packed settlement against the plain one, over random batches and over garbage.
contract SettlementDifferentialTest is SettlementFixture {
    uint32 private constant PAYERS = 6; // of which the last is never opened, and some are poor
    uint32 private constant PROVIDERS = 6; // of which the last is unknown and the one before cooling
    uint256 private constant BATCHES = 4;
    bytes32 private constant ROOT = "root";

    PlainSettlement private plain;
    uint256 private random;
    /// Which ways through `settle` the batches took.
    bool private sawSkippedGroup;
    bool private sawDuplicate;
    bool private sawPaid;
    bool private sawUnknownGroup;
    bool private sawStatement;

    function setUp() public {
        _deploy(18);
        _model();
    }

    function _model() private {
        plain = new PlainSettlement();
        plain.openPayer(0, 0);
        for (uint32 i = 1; i < PAYERS; i++) {
            uint64 balance = i % 2 == 0 ? 5e5 : 1e15;
            plain.openPayer(_payer(balance), balance);
        }
        for (uint32 i = 1; i < PROVIDERS - 1; i++) {
            plain.activate(_provider());
        }
        vault.register(BENEFICIARY, _now() + 1 days);
    }

    function _below(uint256 bound) private returns (uint256) {
        random = uint256(keccak256(abi.encode(random)));
        return random % bound;
    }

    // ---- random batches

    function _content() private returns (Content memory c) {
        c.width = uint8(1 + _below(6));
        c.groupBits = uint8(_below(c.width == 1 ? 7 : 11));
        uint256 most = 1 << (c.groupBits < 4 ? c.groupBits : 4);
        c.groups = new Group[](1 + _below(most));
        for (uint256 i = 0; i < c.groups.length; i++) {
            // A price of 1 to 2^40: from next to nothing to more than anybody has.
            c.groups[i] = Group(uint32(_below(PAYERS + 1)), uint32(_below(PROVIDERS + 1)), uint64(1 << _below(41)));
        }
        uint256 unitBits = 8 * uint256(c.width) - c.groupBits;
        c.jobs = new Job[](_below(60));
        uint64 jobNo = uint64(_below(500));
        for (uint256 i = 0; i < c.jobs.length; i++) {
            c.jobs[i].jobNo = jobNo;
            c.jobs[i].group = _below(c.groups.length);
            c.jobs[i].units = uint64(_below(1 << _below(unitBits + 1)));
            if (c.groups.length < 1 << c.groupBits && _below(20) == 0) {
                c.jobs[i].group = c.groups.length; // not there, and paid nothing
                c.jobs[i].units = 0;
                sawUnknownGroup = true;
            }
            jobNo += uint64(1 + (_below(4) == 0 ? _below(300) : 0));
        }
        c.statements = new Statement[](_below(2) * _below(5));
        for (uint256 i = 0; i < c.statements.length; i++) {
            c.statements[i] = Statement(
                uint8(_below(256)), uint32(_below(1 << 32)), keccak256(abi.encode(random, 1)), keccak256(abi.encode(random))
            );
        }
    }

    function _compare(Content memory c) private {
        bytes memory data = BatchFormat.encode(c);
        PlainSettlement.Result memory want = plain.settle(LANE, ROOT, data);
        vm.recordLogs();
        _settle(data, ROOT);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes memory amounts;
        for (uint256 i = 0; i < want.amounts.length; i++) {
            amounts = abi.encodePacked(amounts, want.amounts[i]);
            if (want.amounts[i] == 1 << 63) sawSkippedGroup = true;
        }
        uint256 summary = want.total << 64 | want.paid << 32 | want.skipped;
        bytes memory event_ = abi.encode(plain.chain(), ROOT, summary, amounts);
        uint256 settled = logs.length - 1 - c.statements.length;
        _same(keccak256(logs[settled].data), keccak256(event_), "event");
        for (uint256 i = 0; i < c.statements.length; i++) {
            _sameStatement(logs[settled + 1 + i], c.statements[i]);
            sawStatement = true;
        }
        if (want.paid != 0) sawPaid = true;
        for (uint256 i = 0; i < settled; i++) {
            if (logs[i].topics[0] == ISettlement.JobsSkipped.selector) sawDuplicate = true;
        }

        for (uint32 i = 0; i <= PAYERS; i++) {
            _same(_balance(i), plain.balanceOf(i), "payer");
        }
        for (uint32 i = 0; i <= PROVIDERS; i++) {
            _same(settlement.creditOf(i), plain.creditOf(i), "provider");
        }
        for (uint256 i = 0; i < c.jobs.length; i++) {
            uint64 no = c.jobs[i].jobNo;
            _true(settlement.isPaid(LANE, no) == plain.isPaid(no), "bit");
            _true(settlement.isPaid(LANE, no + 1) == plain.isPaid(no + 1), "bit of the next");
        }
        (uint64 headSeq, bytes32 headHash) = settlement.head(LANE);
        _same(headSeq, plain.seq(), "seq");
        _same(headHash, plain.chain(), "chain hash");
    }

    function _sameStatement(Vm.Log memory log, Statement memory s) private view {
        _same(log.topics[0], ISettlement.Stated.selector, "statement");
        _same(uint256(log.topics[1]), LANE, "lane");
        _same(uint256(log.topics[2]), s.kind, "kind");
        _same(log.topics[3], s.subject, "subject");
        _same(keccak256(log.data), keccak256(abi.encode(seq, s.number, s.content)), "what is stated");
    }

    function testFuzz_batchesDoWhatThePlainRulesSay(uint256 seed) public {
        random = seed;
        for (uint256 i = 0; i < BATCHES; i++) {
            _compare(_content());
        }
    }

    function test_randomBatchesTakeEveryWayThroughSettle() public {
        for (uint256 i = 0; i < 40; i++) {
            _compare(_content());
        }
        _true(sawPaid && sawSkippedGroup && sawDuplicate && sawUnknownGroup && sawStatement, "each of them");
    }

    // ---- garbage

    function decode(bytes calldata data) external pure {
        BatchFormat.decode(data);
    }

    function testFuzz_whatIsNoBatchIsRefusedAndWhatIsOneIsNot(uint256 seed, bytes memory noise) public {
        random = seed;
        bytes memory data = BatchFormat.encode(_content());
        uint256 way = _below(4);
        if (way == 0) data = noise;
        else if (way == 1) data = bytes.concat(data, noise);
        else if (way == 2) data[_below(7)] = bytes1(uint8(_below(12)));
        else data[_below(data.length)] = bytes1(uint8(_below(256)));

        bool isOne;
        try this.decode(data) {
            isOne = true;
        } catch {}
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, ROOT, data, type(uint64).max));
        uint256 before = settlement.held();
        try settlement.settle(LANE, 1, 0, ROOT, type(uint64).max, r, vs, data) {
            _true(isOne, "took what is no batch");
        } catch (bytes memory reason) {
            _true(!isOne, "refused a batch");
            _same(bytes32(reason), bytes32(ISettlement.BadEncoding.selector), "reason");
        }
        _same(settlement.held(), before, "held");
        uint256 sum;
        for (uint32 i = 0; i <= PAYERS; i++) {
            sum += _balance(i);
        }
        for (uint32 i = 0; i <= PROVIDERS; i++) {
            sum += settlement.creditOf(i);
        }
        _same(sum, before, "nothing comes from nowhere");
    }
}
