// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {BatchFormat, Content, Group, Job} from "./BatchFormat.sol";
import {DeployedSettlement, DeployedToken, Deployment} from "./Deployment.sol";

/// @dev A settlement with one lane, and what signs and sends batches to it.
abstract contract LaneFixture is Deployment {
    uint32 internal constant LANE = 7;
    uint256 internal constant SIGNER_KEY = 0xA11CE;
    uint256 internal constant NANO_PER_TOKEN = 1e9;
    uint64 internal constant PRICE_NANO = 1e9; // one nano-token a unit
    address internal constant ADMIN = address(0xAD);
    address internal constant LANE_ADMIN = address(0x1A);
    address internal constant GUARDIAN = address(0x6A);
    address internal constant TREASURY = address(0x7E);
    address internal constant REWARDS_OWNER = address(0x4E);
    address internal constant BENEFICIARY = address(0xBE);
    address internal constant STRANGER = address(0x57);

    DeployedToken internal token;
    DeployedSettlement internal settlement;

    uint64 internal seq;
    bytes32 internal chain;

    function _setup(address token_, address vault_) internal pure returns (ISettlement.Setup memory) {
        return ISettlement.Setup({
            token: token_,
            vault: vault_,
            admin: ADMIN,
            adminDelay: 1 days,
            laneAdmin: LANE_ADMIN,
            guardian: GUARDIAN,
            treasury: TREASURY,
            feeBps: 500,
            claimDelay: 1 days
        });
    }

    function _openLane(uint32 lane) internal {
        vm.prank(LANE_ADMIN);
        settlement.openLane(lane, vm.addr(SIGNER_KEY), REWARDS_OWNER);
    }

    /// @dev A payer of this contract with `amount` in its account.
    function _payer(uint64 amount) internal returns (uint32 payer) {
        payer = settlement.registerPayer(LANE);
        if (amount != 0) settlement.deposit(LANE, payer, amount);
    }

    // ---- batches

    function _group(uint32 payer, uint32 provider, uint64 price) internal pure returns (Group[] memory groups) {
        groups = new Group[](1);
        groups[0] = Group(payer, provider, price);
    }

    /// @dev One job of one group.
    function _single(uint64 jobNo, uint32 payer, uint32 provider, uint64 units)
        internal
        pure
        returns (Content memory c)
    {
        c.width = 6;
        c.groupBits = 1;
        c.groups = _group(payer, provider, PRICE_NANO);
        c.jobs = new Job[](1);
        c.jobs[0] = Job(jobNo, 0, units);
    }

    function _settle(Content memory c) internal {
        _settle(BatchFormat.encode(c), bytes32(0));
    }

    /// @dev Sends the next batch of the lane and expects it to be accepted.
    function _settle(bytes memory data, bytes32 usageRoot) internal {
        uint64 next = seq + 1;
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, next, chain, usageRoot, data, type(uint64).max));
        settlement.settle(LANE, next, chain, usageRoot, type(uint64).max, r, vs, data);
        chain = keccak256(abi.encode(chain, LANE, next, usageRoot, keccak256(data)));
        seq = next;
    }

    /// @dev The batch's digest as EIP-712 describes it, without the contract's help.
    function _digest(uint32 lane, uint64 seq_, bytes32 prev, bytes32 usageRoot, bytes memory data, uint64 validUntil)
        internal
        view
        returns (bytes32)
    {
        bytes32 content = keccak256(
            abi.encode(
                keccak256(
                    "Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil)"
                ),
                lane,
                seq_,
                prev,
                usageRoot,
                keccak256(data),
                validUntil
            )
        );
        return keccak256(abi.encodePacked(hex"1901", _domain(block.chainid, address(settlement)), content));
    }

    function _domain(uint256 chainId, address contract_) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Gridstake Settlement"),
                keccak256("1"),
                chainId,
                contract_
            )
        );
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        (uint8 v, bytes32 r_, bytes32 s) = vm.sign(key, digest);
        return (r_, bytes32(uint256(s) | uint256(v - 27) << 255));
    }

    function _balance(uint32 payer) internal view returns (uint64) {
        return settlement.balanceOf(LANE, payer);
    }

    function _units(uint64 nano) internal view returns (uint256) {
        return uint256(nano) * 10 ** token.decimals() / NANO_PER_TOKEN;
    }
}
