// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @dev OpenZeppelin's EIP712 and nothing else.
contract Eip712Domain is EIP712 {
    constructor(string memory name) EIP712(name, "1") {}

    function digest(bytes32 content) external view returns (bytes32) {
        return _hashTypedDataV4(content);
    }
}
