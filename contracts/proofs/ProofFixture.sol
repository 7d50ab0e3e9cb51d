// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Settlement} from "../src/Settlement.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";

/// @dev The cheat codes that halmos knows and these proofs use.
interface Vm {
    function warp(uint256 timestamp) external;
    function prank(address sender) external;
    function assume(bool condition) external;
}

/// @dev A standard ERC-20 of nine decimals, so that a nano-token is its unit: what the contracts ask of a token and no more.
contract ProofToken {
    uint8 public constant decimals = 9;
    mapping(address account => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    constructor() {
        balanceOf[msg.sender] = type(uint256).max >> 1;
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        return _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private returns (bool) {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
        return true;
    }
}

/// @dev Both contracts as they are deployed together, with one provider. This contract is payer, staker, every office but the
/// admin's, and whoever sends: a proof that holds for the most powerful caller.
abstract contract ProofFixture {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint32 internal constant LANE = 7;
    address internal constant ADMIN = address(0xAD);
    address internal constant SIGNER = address(0x5161);
    address internal constant SLASH_SIGNER = address(0x51A5);
    address internal constant TREASURY = address(0x7E);
    address internal constant BENEFICIARY = address(0xBE);
    uint256 internal constant START = 1_800_000_000;

    ProofToken internal token;
    StakeVault internal vault;
    Settlement internal settlement;
    uint32 internal provider;

    function _deploy() internal {
        vm.warp(START);
        token = new ProofToken();
        vault = new StakeVault(IERC20(address(token)), ADMIN, 1 days, TREASURY);
        settlement = new Settlement(
            ISettlement.Setup({
                token: address(token),
                vault: address(vault),
                admin: ADMIN,
                adminDelay: 1 days,
                laneAdmin: address(this),
                guardian: address(this),
                treasury: TREASURY,
                feeBps: 500,
                claimDelay: 1 days
            })
        );
        bytes32 laneAdmin = vault.LANE_ADMIN_ROLE();
        bytes32 arbiter = vault.ARBITER_ROLE();
        bytes32 guardian = vault.GUARDIAN_ROLE();
        vm.prank(ADMIN);
        vault.setSettlement(settlement);
        vm.prank(ADMIN);
        vault.grantRole(laneAdmin, address(this));
        vm.prank(ADMIN);
        vault.grantRole(arbiter, address(this));
        vm.prank(ADMIN);
        vault.grantRole(guardian, address(this));
        vault.setSlashSigner(LANE, SLASH_SIGNER);
        settlement.openLane(LANE, SIGNER, address(0));
        token.approve(address(vault), type(uint256).max);
        token.approve(address(settlement), type(uint256).max);
        provider = vault.register(address(0x09), BENEFICIARY);
    }

    function _activate() internal {
        vm.warp(START + 1 days);
        settlement.activateProvider(provider);
    }
}
