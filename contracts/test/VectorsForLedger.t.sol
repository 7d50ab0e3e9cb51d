// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {BatchFormat, Content, Group, Job, Statement} from "./support/BatchFormat.sol";
import {Eip712Domain} from "./support/Eip712Domain.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";

/// @dev Vectors that the ledger crate reads (ledger/tests/vectors): batches as this side encodes them, with OpenZeppelin's
/// digests, and bytes that the contract refuses. WRITE_VECTORS=true writes the file again.
contract VectorsForLedgerTest is SettlementFixture {
    string private constant FILE = "test/vectors/forge.json";
    address private constant AT = address(0xA7);
    uint64 private constant VALID_UNTIL = 1_900_000_000;
    uint256 private constant BATCHES = 8;

    uint256 private random;

    function setUp() public {
        _deploy(18);
        vm.etch(AT, address(new Eip712Domain("Gridstake Settlement")).code);
    }

    function _below(uint256 bound) private returns (uint256) {
        random = uint256(keccak256(abi.encode(random)));
        return random % bound;
    }

    /// @dev Width 1 to 6, few groups and many, neighbours and strays.
    function _content(uint8 width) private returns (Content memory c) {
        c.width = width;
        c.groupBits = uint8(_below(4));
        c.groups = new Group[](1 + _below(1 << c.groupBits));
        for (uint256 i = 0; i < c.groups.length; i++) {
            c.groups[i] = Group(uint32(_below(1 << 32)), uint32(_below(1 << 32)), uint64(1 + _below(1 << 20)));
        }
        c.jobs = new Job[](1 + _below(20));
        uint64 jobNo = uint64(_below(1 << 20));
        for (uint256 i = 0; i < c.jobs.length; i++) {
            uint256 unitBits = 8 * uint256(width) - c.groupBits;
            c.jobs[i] = Job(jobNo, _below(c.groups.length), uint64(_below(1 << unitBits)));
            jobNo += uint64(1 + (_below(5) == 0 ? _below(1 << 12) : 0));
        }
        c.statements = new Statement[](_below(4));
        for (uint256 i = 0; i < c.statements.length; i++) {
            bytes32 subject = bytes32(_below(type(uint256).max));
            c.statements[i] = Statement(uint8(_below(256)), uint32(_below(1 << 32)), subject, keccak256(abi.encode(subject)));
        }
    }

    // ---- JSON: numbers and bytes are strings

    function _field(string memory name, string memory value) private pure returns (string memory) {
        return string.concat('"', name, '": "', value, '"');
    }

    function _list(string memory name, uint256[] memory values) private pure returns (string memory list) {
        for (uint256 i = 0; i < values.length; i++) {
            list = string.concat(list, i == 0 ? '"' : ', "', vm.toString(values[i]), '"');
        }
        return string.concat('"', name, '": [', list, "]");
    }

    function _list(string memory name, bytes32[] memory values) private pure returns (string memory list) {
        for (uint256 i = 0; i < values.length; i++) {
            list = string.concat(list, i == 0 ? '"' : ', "', vm.toString(values[i]), '"');
        }
        return string.concat('"', name, '": [', list, "]");
    }

    function _entries(Content memory c) private pure returns (string memory) {
        uint256[][5] memory v;
        for (uint256 k = 0; k < 5; k++) {
            v[k] = new uint256[](c.jobs.length);
        }
        for (uint256 i = 0; i < c.jobs.length; i++) {
            v[0][i] = c.jobs[i].jobNo;
            v[1][i] = c.groups[c.jobs[i].group].payer;
            v[2][i] = c.groups[c.jobs[i].group].provider;
            v[3][i] = c.groups[c.jobs[i].group].price;
            v[4][i] = c.jobs[i].units;
        }
        return string.concat(
            _list("jobNo", v[0]),
            ",\n      ",
            _list("payer", v[1]),
            ",\n      ",
            _list("provider", v[2]),
            ",\n      ",
            _list("price", v[3]),
            ",\n      ",
            _list("units", v[4])
        );
    }

    function _statements(Content memory c) private pure returns (string memory) {
        uint256[][2] memory v = [new uint256[](c.statements.length), new uint256[](c.statements.length)];
        bytes32[][2] memory h = [new bytes32[](c.statements.length), new bytes32[](c.statements.length)];
        for (uint256 i = 0; i < c.statements.length; i++) {
            v[0][i] = c.statements[i].kind;
            v[1][i] = c.statements[i].number;
            h[0][i] = c.statements[i].subject;
            h[1][i] = c.statements[i].content;
        }
        return string.concat(
            _list("kind", v[0]),
            ", ",
            _list("number", v[1]),
            ",\n      ",
            _list("subject", h[0]),
            ",\n      ",
            _list("content", h[1])
        );
    }

    function _one(uint8 width) private returns (string memory text) {
        Content memory c = _content(width);
        bytes memory data = BatchFormat.encode(c);
        uint64 next = seq + 1;
        bytes32 root = bytes32(_below(type(uint256).max));
        bytes32 content = keccak256(
            abi.encode(settlement.BATCH_TYPEHASH(), LANE, next, chain, root, keccak256(data), VALID_UNTIL)
        );
        text = string.concat(
            _field("lane", vm.toString(uint256(LANE))),
            ", ",
            _field("seq", vm.toString(uint256(next))),
            ", ",
            _field("validUntil", vm.toString(uint256(VALID_UNTIL))),
            ",\n      ",
            _field("prev", vm.toString(chain)),
            ",\n      ",
            _field("usageRoot", vm.toString(root)),
            ",\n      ",
            _field("data", vm.toString(data))
        );
        // What the contract itself makes of it is the head after it.
        _settle(data, root);
        (, bytes32 head) = settlement.head(LANE);
        text = string.concat(
            text,
            ",\n      ",
            _field("dataHash", vm.toString(keccak256(data))),
            ",\n      ",
            _field("chainHash", vm.toString(head)),
            ",\n      ",
            _field("digest", vm.toString(Eip712Domain(AT).digest(content))),
            ",\n      ",
            _entries(c)
        );
        text = string.concat(text, ",\n      ", _statements(c));
        return string.concat("    {\n      ", text, "\n    }");
    }

    /// @dev Without the last byte.
    function _shorter(bytes memory data) private pure returns (bytes memory) {
        assembly ("memory-safe") {
            mstore(data, sub(mload(data), 1))
        }
        return data;
    }

    function _malformed() private pure returns (bytes[] memory bad) {
        bytes memory good = BatchFormat.encode(_single(300, 1, 1, 5));
        Content memory twice = _single(300, 1, 1, 5);
        twice.jobs = new Job[](2);
        twice.jobs[0] = Job(300, 0, 1);
        twice.jobs[1] = Job(3, 0, 1);
        Content memory stray = _single(1, 1, 1, 5);
        stray.jobs[0].group = 1;
        Content memory states = _single(300, 1, 1, 5);
        states.statements = new Statement[](1);
        bad = new bytes[](13);
        bad[0] = "";
        bad[1] = bytes.concat(good, hex"00");
        bad[2] = _shorter(BatchFormat.encode(_single(300, 1, 1, 5)));
        bad[3] = hex"00000000000000";
        bad[4] = hex"07000000000000";
        bad[5] = hex"060b0000000000";
        bad[6] = hex"01090000000000";
        bad[7] = bytes.concat(hex"01000002000000", new bytes(32));
        bad[8] = BatchFormat.encode(twice);
        bad[9] = BatchFormat.encode(stray);
        bad[10] = _shorter(BatchFormat.encode(states));
        bad[11] = BatchFormat.encode(states);
        bad[11][6] = 0x02; // one more than there is
        bad[12] = BatchFormat.encode(states);
        bad[12][6] = 0x00; // one less
    }

    function test_whatTheLedgerReadsIsWhatThisSideMakes() public {
        string memory batches;
        for (uint256 i = 0; i < BATCHES; i++) {
            batches = string.concat(batches, i == 0 ? "" : ",\n", _one(uint8(1 + i % 6)));
        }
        bytes[] memory bad = _malformed();
        string memory malformed;
        for (uint256 i = 0; i < bad.length; i++) {
            (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, seq + 1, chain, 0, bad[i], VALID_UNTIL));
            vm.expectRevert(ISettlement.BadEncoding.selector);
            settlement.settle(LANE, seq + 1, chain, 0, VALID_UNTIL, r, vs, bad[i]);
            malformed = string.concat(malformed, i == 0 ? '    "' : ',\n    "', vm.toString(bad[i]), '"');
        }
        string memory json = string.concat(
            "{\n  ",
            _field("chainId", vm.toString(block.chainid)),
            ",\n  ",
            _field("settlement", vm.toString(bytes32(uint256(uint160(AT))))),
            ',\n  "batches": [\n',
            batches,
            '\n  ],\n  "malformed": [\n',
            malformed,
            "\n  ]\n}\n"
        );
        if (vm.envOr("WRITE_VECTORS", false)) vm.writeFile(FILE, json);
        _same(
            keccak256(bytes(vm.readFile(FILE))),
            keccak256(bytes(json)),
            "test/vectors/forge.json: if the change is meant: see contracts/README.md"
        );
    }
}
