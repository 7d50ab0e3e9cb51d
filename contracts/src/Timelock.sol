// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

// OpenZeppelin's timelock, unchanged: named here so that it is compiled with our settings. `contracts-deploy` makes one
// the admin of Settlement and StakeVault.
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
