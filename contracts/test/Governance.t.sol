// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {DeployedVault} from "./support/Deployment.sol";
import {GridGovernor} from "./support/GridGovernor.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

/// @dev Both contracts owned by a timelock whose only proposer is a Governor with votes of the token.
contract GovernanceTest is VaultFixture {
    uint256 private constant MIN_DELAY = 2 days;
    uint8 private constant FOR = 1;
    address private constant VOTER = address(0x70);

    TimelockController private timelock;
    GridGovernor private governor;

    function setUp() public {
        _deploy(18);
        timelock = new TimelockController(MIN_DELAY, new address[](0), new address[](1), address(this));
        governor = new GridGovernor(token, timelock);
        timelock.grantRole(timelock.PROPOSER_ROLE(), address(governor));
        timelock.grantRole(timelock.CANCELLER_ROLE(), address(governor));
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));

        token.transfer(VOTER, token.totalSupply() / 10);
        vm.prank(VOTER);
        token.delegate(VOTER);

        vm.startPrank(ADMIN);
        vault.beginDefaultAdminTransfer(address(timelock));
        settlement.beginDefaultAdminTransfer(address(timelock));
        vm.stopPrank();
        _later(1 days + 1);
        _pass(address(vault), abi.encodeCall(vault.acceptDefaultAdminTransfer, ()), "");
        _pass(address(settlement), abi.encodeCall(settlement.acceptDefaultAdminTransfer, ()), "");
    }

    struct Proposal {
        address[] targets;
        uint256[] values;
        bytes[] calls;
        bytes32 description;
    }

    /// @dev A vote that succeeds, and its time in the timelock.
    function _queue(address target, bytes memory call) private returns (Proposal memory p) {
        p.targets = new address[](1);
        p.values = new uint256[](1);
        p.calls = new bytes[](1);
        p.targets[0] = target;
        p.calls[0] = call;
        string memory description = vm.toString(call);
        p.description = keccak256(bytes(description));
        uint256 id = governor.propose(p.targets, p.values, p.calls, description);
        _later(1 days + 1);
        vm.prank(VOTER);
        governor.castVote(id, FOR);
        _later(7 days);
        governor.queue(p.targets, p.values, p.calls, p.description);
    }

    /// @dev Executes it, or expects the call to fail with `reason`.
    function _pass(address target, bytes memory call, bytes memory reason) private {
        Proposal memory p = _queue(target, call);
        _later(MIN_DELAY);
        if (reason.length != 0) vm.expectRevert(reason);
        governor.execute(p.targets, p.values, p.calls, p.description);
    }

    function _minimum(uint256 value) private pure returns (bytes memory) {
        return abi.encodeCall(DeployedVault.setParameter, (StakeVaultParameters.Parameter.MinimumStakeMiner, value));
    }

    function test_aVoteChangesTheMinimumStakeAfterTheTimelock() public {
        _stake(25_000 * TOKEN);
        _true(vault.isBonded(provider, IStakeVault.Role.Miner), "bonded");
        Proposal memory p = _queue(address(vault), _minimum(30_000 * TOKEN));
        _later(MIN_DELAY - 1);
        vm.expectRevert();
        governor.execute(p.targets, p.values, p.calls, p.description);
        _same(vault.minimumStake(IStakeVault.Role.Miner), 20_000 * TOKEN, "not yet");
        _later(1);
        governor.execute(p.targets, p.values, p.calls, p.description);
        _same(vault.minimumStake(IStakeVault.Role.Miner), 30_000 * TOKEN, "changed");
        _true(!vault.isBonded(provider, IStakeVault.Role.Miner), "and at once not bonded any more");
    }

    function test_aVoteChangesTheFee() public {
        _pass(address(settlement), abi.encodeCall(ISettlement.setFeeBps, (uint16(700))), "");
        _same(settlement.feeBps(), 700, "fee");
    }

    function test_noVoteLeavesTheBounds() public {
        bytes memory bounds = abi.encodeWithSelector(IStakeVault.OutOfBounds.selector);
        _pass(address(vault), _minimum(1e21 + 1), bounds);
        _pass(
            address(vault),
            abi.encodeCall(DeployedVault.setParameter, (StakeVaultParameters.Parameter.UnbondingTime, 91 days)),
            bounds
        );
    }

    function test_withoutAVoteNobodyIsTheAdmin() public {
        vm.prank(ADMIN);
        vm.expectRevert();
        vault.setParameter(StakeVaultParameters.Parameter.CoolingTime, 0);
        vm.prank(VOTER);
        vm.expectRevert();
        timelock.schedule(address(vault), 0, _minimum(0), 0, 0, MIN_DELAY);
        _same(vault.defaultAdmin(), address(timelock), "the timelock");
    }

    function test_noVoteMovesAStakersPrincipal() public {
        _stake(100 * TOKEN);
        uint32 ticket = _unbond(40 * TOKEN);
        _pass(
            address(vault),
            abi.encodeCall(IStakeVault.withdraw, (provider, ticket)),
            abi.encodeWithSelector(IStakeVault.UnknownTicket.selector)
        );
        _pass(
            address(vault),
            abi.encodeCall(IStakeVault.requestUnbond, (provider, 1)),
            abi.encodeWithSelector(IStakeVault.NotStaker.selector)
        );
        _same(token.balanceOf(address(vault)), 100e18, "all there");
    }
}
