// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

struct Group {
    uint32 payer;
    uint32 provider;
    uint64 price;
}

/// @dev `group` is an index into the groups.
struct Job {
    uint64 jobNo;
    uint256 group;
    uint64 units;
}

struct Statement {
    uint8 kind;
    uint32 number;
    bytes32 subject;
    bytes32 content;
}

struct Content {
    uint8 width;
    uint8 groupBits;
    Group[] groups;
    Job[] jobs;
    Statement[] statements;
}

/// @title A second reading of the wire format, from its description alone: a byte at a time, no bit tricks.
library BatchFormat {
    error Malformed(string why);

    function encode(Content memory c) internal pure returns (bytes memory data) {
        uint256 wordCount;
        for (uint256 i = 0; i < c.jobs.length; i++) {
            if (i == 0 || c.jobs[i].jobNo / 224 != c.jobs[i - 1].jobNo / 224) wordCount++;
        }
        data = abi.encodePacked(
            c.width, c.groupBits, uint16(c.groups.length), uint16(wordCount), uint8(c.statements.length)
        );
        for (uint256 i = 0; i < c.jobs.length;) {
            uint64 wordNo = c.jobs[i].jobNo / 224;
            uint224 mask;
            for (; i < c.jobs.length && c.jobs[i].jobNo / 224 == wordNo; i++) {
                mask |= uint224(1) << (c.jobs[i].jobNo % 224);
            }
            data = abi.encodePacked(data, uint32(wordNo), mask);
        }
        for (uint256 i = 0; i < c.groups.length; i++) {
            data = abi.encodePacked(data, c.groups[i].payer, c.groups[i].provider, c.groups[i].price);
        }
        uint256 unitBits = 8 * uint256(c.width) - c.groupBits;
        bytes memory records = new bytes(c.jobs.length * c.width);
        for (uint256 i = 0; i < c.jobs.length; i++) {
            uint256 record = c.jobs[i].group << unitBits | c.jobs[i].units;
            for (uint256 k = 0; k < c.width; k++) {
                records[i * c.width + k] = bytes1(uint8(record >> (8 * (c.width - 1 - k))));
            }
        }
        data = bytes.concat(data, records);
        for (uint256 i = 0; i < c.statements.length; i++) {
            Statement memory s = c.statements[i];
            data = abi.encodePacked(data, s.kind, s.number, s.subject, s.content);
        }
    }

    function decode(bytes memory data) internal pure returns (Content memory c) {
        if (data.length < 7) revert Malformed("header");
        c.width = uint8(data[0]);
        c.groupBits = uint8(data[1]);
        uint256 groupCount = _number(data, 2, 2);
        uint256 wordCount = _number(data, 4, 2);
        c.statements = new Statement[](uint8(data[6]));
        if (c.width < 1 || c.width > 6) revert Malformed("width");
        if (c.groupBits > 10 || c.groupBits > 8 * uint256(c.width)) revert Malformed("group bits");
        if (groupCount > 2 ** c.groupBits) revert Malformed("groups");
        uint256 groups = 7 + 32 * wordCount;
        uint256 records = groups + 16 * groupCount;
        if (data.length < records + 69 * c.statements.length) revert Malformed("length");
        uint256 statements = data.length - 69 * c.statements.length;

        c.groups = new Group[](groupCount);
        for (uint256 i = 0; i < groupCount; i++) {
            uint256 offset = groups + 16 * i;
            c.groups[i] =
                Group(uint32(_number(data, offset, 4)), uint32(_number(data, offset + 4, 4)), uint64(_number(data, offset + 8, 8)));
        }

        c.jobs = new Job[]((statements - records) / c.width);
        if (c.jobs.length > 65_535) revert Malformed("jobs");
        uint256 n;
        uint256 least;
        for (uint256 w = 0; w < wordCount; w++) {
            uint256 wordNo = _number(data, 7 + 32 * w, 4);
            if (wordNo < least) revert Malformed("word order");
            least = wordNo + 1;
            for (uint256 bit = 0; bit < 224; bit++) {
                if (uint8(data[7 + 32 * w + 31 - bit / 8]) >> (bit % 8) & 1 == 0) continue;
                if (n == c.jobs.length) revert Malformed("too few records");
                uint256 record = _number(data, records + n * c.width, c.width);
                uint256 unitValues = 2 ** (8 * uint256(c.width) - c.groupBits);
                c.jobs[n] = Job(uint64(wordNo * 224 + bit), record / unitValues, uint64(record % unitValues));
                if (c.jobs[n].group >= groupCount && c.jobs[n].units != 0) revert Malformed("no such group");
                n++;
            }
        }
        if (n != c.jobs.length || records + n * c.width != statements) revert Malformed("too many records");
        for (uint256 i = 0; i < c.statements.length; i++) {
            uint256 offset = statements + 69 * i;
            c.statements[i] = Statement(
                uint8(data[offset]),
                uint32(_number(data, offset + 1, 4)),
                bytes32(_number(data, offset + 5, 32)),
                bytes32(_number(data, offset + 37, 32))
            );
        }
    }

    function _number(bytes memory data, uint256 offset, uint256 length) private pure returns (uint256 value) {
        for (uint256 i = 0; i < length; i++) {
            value = value << 8 | uint8(data[offset + i]);
        }
    }
}
