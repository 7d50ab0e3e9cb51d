// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {IStakeVault} from "../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../src/StakeVaultParameters.sol";
import {DeployedVault} from "./support/Deployment.sol";
import {EmptyPromises} from "./support/VaultDoubles.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

contract VaultRolesTest is VaultFixture {
    function setUp() public {
        _deploy(18);
    }

    function _expectUnauthorized(address who, bytes32 role) private {
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, who, role));
        vm.prank(who);
    }

    // ---- parameters

    function test_parametersBeginAsDocumented() public view {
        uint256[11] memory want = [
            uint256(20_000 * TOKEN),
            2_000_000 * TOKEN,
            604_800,
            1 days,
            48 hours,
            7 days,
            1 days,
            10_000,
            TOKEN,
            2_000,
            2_000
        ];
        for (uint256 i = 0; i < want.length; i++) {
            _same(vault.parameter(StakeVaultParameters.Parameter(i)), want[i], vm.toString(i));
        }
        _same(vault.minimumStake(IStakeVault.Role.Miner), 20_000 * TOKEN, "miner");
        _same(vault.minimumStake(IStakeVault.Role.Coordinator), 2_000_000 * TOKEN, "coordinator");
        _same(vault.unbondingTime(), 604_800, "unbonding");
        _same(vault.treasury(), TREASURY, "treasury");
    }

    function test_noParameterLeavesItsBounds() public {
        for (uint256 i = 0; i <= uint256(type(StakeVaultParameters.Parameter).max); i++) {
            StakeVaultParameters.Parameter which = StakeVaultParameters.Parameter(i);
            (uint256 least, uint256 greatest) = vault.boundsOf(which);
            uint256 present = vault.parameter(which);
            _true(least <= present && present <= greatest, "the first value is within them");
            vm.startPrank(ADMIN);
            vm.expectRevert(IStakeVault.OutOfBounds.selector);
            vault.setParameter(which, greatest + 1);
            if (least != 0) {
                vm.expectRevert(IStakeVault.OutOfBounds.selector);
                vault.setParameter(which, least - 1);
            }
            vault.setParameter(which, least);
            vault.setParameter(which, greatest);
            vm.stopPrank();
            _same(vault.parameter(which), greatest, "the greatest is allowed");
        }
    }

    function test_aMinimumStakeThatChangesIsAnnouncedWithItsRole() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit StakeVaultParameters.ParameterChanged(StakeVaultParameters.Parameter.MinimumStakeMiner, 5 * TOKEN);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.MinimumStakeChanged(IStakeVault.Role.Miner, 5 * TOKEN);
        _set(StakeVaultParameters.Parameter.MinimumStakeMiner, 5 * TOKEN);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.MinimumStakeChanged(IStakeVault.Role.Coordinator, 6 * TOKEN);
        _set(StakeVaultParameters.Parameter.MinimumStakeCoordinator, 6 * TOKEN);
    }

    // ---- who may

    function test_onlyTheAdminSetsParametersAndPartners() public {
        bytes32 role = vault.DEFAULT_ADMIN_ROLE();
        address[4] memory others = [LANE_ADMIN, ARBITER, GUARDIAN, TREASURY];
        for (uint256 i = 0; i < others.length; i++) {
            _expectUnauthorized(others[i], role);
            vault.setParameter(StakeVaultParameters.Parameter.UnbondingTime, 1 days);
            _expectUnauthorized(others[i], role);
            vault.setTreasury(others[i]);
            _expectUnauthorized(others[i], role);
            vault.setSettlement(settlement);
        }
    }

    function test_eachOtherRoleHasItsOwnPowerOnly() public {
        bytes32 laneAdmin = vault.LANE_ADMIN_ROLE();
        bytes32 arbiter = vault.ARBITER_ROLE();
        bytes32 guardian = vault.GUARDIAN_ROLE();
        _expectUnauthorized(ADMIN, laneAdmin);
        vault.setSlashSigner(LANE, ADMIN);
        _expectUnauthorized(ADMIN, arbiter);
        vault.resolveSlash(1, 1);
        _expectUnauthorized(ADMIN, guardian);
        vault.cancelSlash(1);
        _expectUnauthorized(STRANGER, vault.DEFAULT_ADMIN_ROLE());
        vault.setPaused(StakeVaultParameters.Path.Inflow, true);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IStakeVault.SlashSignerChanged(9, STRANGER);
        vm.prank(LANE_ADMIN);
        vault.setSlashSigner(9, STRANGER);
        _same(vault.slashSigner(9), STRANGER, "slash signer");
    }

    function test_theTreasuryIsNeverNobody() public {
        vm.startPrank(ADMIN);
        vm.expectRevert(IStakeVault.ZeroAddress.selector);
        vault.setTreasury(address(0));
        vault.setTreasury(STRANGER);
        vm.stopPrank();
        vm.expectRevert(IStakeVault.ZeroAddress.selector);
        _newVault(address(token), ADMIN, address(0));
    }

    function test_theSettlementIsSetOnceAndMustBelongToThisVault() public {
        vm.prank(ADMIN);
        vm.expectRevert(IStakeVault.WrongState.selector);
        vault.setSettlement(settlement);
        DeployedVault second = _newVault(address(token), ADMIN, TREASURY);
        ISettlement ofThisVault = new EmptyPromises(address(vault), address(token)).asSettlement();
        ISettlement ofAnotherToken = new EmptyPromises(address(second), STRANGER).asSettlement();
        vm.startPrank(ADMIN);
        vm.expectRevert(IStakeVault.NotSettlement.selector);
        second.setSettlement(ofThisVault);
        vm.expectRevert(IStakeVault.NotSettlement.selector);
        second.setSettlement(ofAnotherToken);
        vm.stopPrank();
    }

    function test_theAdminChangesInTwoStepsAndADelay() public {
        vm.prank(ADMIN);
        vault.beginDefaultAdminTransfer(STRANGER);
        _later(1 days);
        vm.prank(STRANGER);
        vm.expectRevert();
        vault.acceptDefaultAdminTransfer();
        _later(1);
        vm.prank(STRANGER);
        vault.acceptDefaultAdminTransfer();
        _same(vault.defaultAdmin(), STRANGER, "admin");
    }

    // ---- principal

    /// Every function that moves principal, tried by every role that is not its owner.
    function test_noRoleMovesAStakersPrincipal() public {
        _stake(100 * TOKEN);
        _delegate(DELEGATOR, 100 * TOKEN);
        uint32 ticket = _unbond(10 * TOKEN);
        _undelegate(DELEGATOR, 10 * TOKEN);
        _later(UNBONDING);
        bytes[7] memory calls = [
            abi.encodeCall(IStakeVault.requestUnbond, (provider, TOKEN)),
            abi.encodeCall(IStakeVault.requestUndelegate, (provider, TOKEN)),
            abi.encodeCall(IStakeVault.withdraw, (provider, ticket)),
            abi.encodeCall(IStakeVault.rebond, (provider, ticket)),
            abi.encodeCall(IStakeVault.paySlashedFunds, ()),
            abi.encodeCall(IStakeVault.claimRewards, (provider, DELEGATOR)),
            abi.encodeCall(IStakeVault.divideRewards, (provider, 1_000))
        ];
        address[9] memory everybody =
            [ADMIN, LANE_ADMIN, ARBITER, GUARDIAN, TREASURY, OPERATOR, BENEFICIARY, STRANGER, vm.addr(SLASH_KEY)];
        for (uint256 i = 0; i < everybody.length; i++) {
            for (uint256 k = 0; k < calls.length; k++) {
                vm.prank(everybody[i]);
                (bool done,) = address(vault).call(calls[k]);
                _true(!done, "refused");
            }
            _same(token.balanceOf(everybody[i]), 0, "nothing came");
        }
        _same(token.balanceOf(address(vault)), 200e18, "all of it is there");
        (uint128 principal,,) = vault.liabilities();
        _same(principal, 200 * TOKEN, "and owed");
    }
}
