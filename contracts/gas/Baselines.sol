// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @dev What gas/measure.py compares the settlement with: how jobs are paid where nobody minds the gas.
contract PlainToken is ERC20 {
    constructor() ERC20("Plain", "PLAIN") {
        _mint(msg.sender, 1e30);
    }
}

/// @title A transaction a job: a slot against a second payment, an event, a transfer.
contract PaymentPerJob is AccessControl {
    using SafeERC20 for IERC20;

    bytes32 public constant SETTLER = keccak256("SETTLER_ROLE");

    IERC20 private immutable _token;
    mapping(bytes32 jobId => bool) public paid;

    event JobPaid(bytes32 indexed jobId, address indexed provider, uint256 amount);

    constructor(IERC20 token) {
        _token = token;
        _grantRole(SETTLER, msg.sender);
    }

    function pay(bytes32 jobId, address provider, uint256 amount) external onlyRole(SETTLER) {
        require(!paid[jobId], "paid");
        paid[jobId] = true;
        emit JobPaid(jobId, provider, amount);
        _token.safeTransfer(provider, amount);
    }
}

/// @title A batch as an array of structs: a sequence number against a second payment, a credit and an event a job.
contract BatchOfStructs is AccessControl {
    struct Entry {
        bytes32 jobId;
        address provider;
        uint128 amount;
    }

    struct Head {
        uint64 seq;
        bytes24 hash;
    }

    bytes32 public constant SETTLER = keccak256("SETTLER_ROLE");

    Head public head;
    bool public paused;
    mapping(address provider => uint256) public creditOf;
    uint256 public total;

    event JobPaid(bytes32 indexed jobId, address indexed provider, uint256 amount);
    event BatchSettled(uint64 indexed seq, bytes32 hash, uint256 amount);

    constructor() {
        _grantRole(SETTLER, msg.sender);
    }

    function settle(uint64 seq, Entry[] calldata entries) external onlyRole(SETTLER) {
        require(!paused, "paused");
        require(seq == head.seq + 1, "seq");
        bytes32 hash = keccak256(msg.data);
        head = Head(seq, bytes24(hash));
        uint256 amount;
        for (uint256 i; i < entries.length; ++i) {
            Entry calldata entry = entries[i];
            unchecked {
                creditOf[entry.provider] += entry.amount;
                amount += entry.amount;
            }
            emit JobPaid(entry.jobId, entry.provider, entry.amount);
        }
        total += amount;
        emit BatchSettled(seq, hash, amount);
    }
}
