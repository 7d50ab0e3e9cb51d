// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {BatchFormat, Content, Group, Job} from "./BatchFormat.sol";

/// @title The rules of a settlement once more: plain mappings, one job at a time.
contract PlainSettlement {
    struct Result {
        uint256 total;
        uint256 paid;
        uint256 skipped;
        uint64[] amounts; // per group; 1 << 63: left out
    }

    uint256 private constant LEFT_OUT = 1 << 63;

    mapping(uint32 payer => bool) public isPayer;
    mapping(uint32 payer => uint256) public balanceOf;
    mapping(uint32 provider => bool) public isActive;
    mapping(uint32 provider => uint256) public creditOf;
    mapping(uint64 jobNo => bool) public isPaid;
    uint64 public seq;
    bytes32 public chain;

    function openPayer(uint32 payer, uint256 balance) external {
        isPayer[payer] = true;
        balanceOf[payer] = balance;
    }

    function activate(uint32 provider) external {
        isActive[provider] = true;
    }

    function settle(uint32 lane, bytes32 usageRoot, bytes calldata data) external returns (Result memory result) {
        Content memory c = BatchFormat.decode(data);
        result.amounts = new uint64[](c.groups.length);
        for (uint256 g = 0; g < c.groups.length; g++) {
            result.amounts[g] = uint64(_pay(c, g));
            if (result.amounts[g] != LEFT_OUT) result.total += result.amounts[g];
        }
        for (uint256 i = 0; i < c.jobs.length; i++) {
            Job memory job = c.jobs[i];
            bool leftOut = job.group < c.groups.length && result.amounts[job.group] == LEFT_OUT;
            if (isPaid[job.jobNo] || leftOut) {
                result.skipped++;
            } else {
                result.paid++;
                isPaid[job.jobNo] = true;
            }
        }
        seq++;
        chain = keccak256(abi.encode(chain, lane, seq, usageRoot, keccak256(data)));
    }

    function _pay(Content memory c, uint256 index) private returns (uint256 amount) {
        Group memory group = c.groups[index];
        uint256 units;
        for (uint256 i = 0; i < c.jobs.length; i++) {
            if (c.jobs[i].group == index && !isPaid[c.jobs[i].jobNo]) units += c.jobs[i].units;
        }
        amount = units * group.price / 1e9;
        if (!isActive[group.provider] || !isPayer[group.payer] || balanceOf[group.payer] < amount) return LEFT_OUT;
        balanceOf[group.payer] -= amount;
        creditOf[group.provider] += amount;
    }
}
