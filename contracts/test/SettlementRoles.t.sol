// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {ISettlement} from "../src/interfaces/ISettlement.sol";
import {SettlementFixture} from "./support/SettlementFixture.sol";

contract SettlementRolesTest is SettlementFixture {
    function setUp() public {
        _deploy(18);
    }

    function _expectUnauthorized(address who, bytes32 role) private {
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, who, role));
        vm.prank(who);
    }

    function test_onlyTheLaneAdminSetsLanesUp() public {
        _expectUnauthorized(STRANGER, settlement.LANE_ADMIN());
        settlement.openLane(8, STRANGER, STRANGER);
        _expectUnauthorized(GUARDIAN, settlement.LANE_ADMIN());
        settlement.setLaneSigner(LANE, GUARDIAN);
        _expectUnauthorized(GUARDIAN, settlement.LANE_ADMIN());
        settlement.reopenLane(LANE, GUARDIAN);
        _expectUnauthorized(ADMIN, settlement.LANE_ADMIN());
        settlement.openLane(8, ADMIN, ADMIN);
    }

    function test_onlyTheAdminSetsParameters() public {
        _expectUnauthorized(LANE_ADMIN, settlement.DEFAULT_ADMIN_ROLE());
        settlement.setFeeBps(1);
        _expectUnauthorized(LANE_ADMIN, settlement.DEFAULT_ADMIN_ROLE());
        settlement.setClaimDelay(1);
        _expectUnauthorized(GUARDIAN, settlement.DEFAULT_ADMIN_ROLE());
        settlement.setTreasury(GUARDIAN);
    }

    function test_theGuardianPausesAndTheAdminCanUndoIt() public {
        _expectUnauthorized(ADMIN, settlement.GUARDIAN());
        settlement.pause(ISettlement.Path.Settle);
        _expectUnauthorized(STRANGER, settlement.DEFAULT_ADMIN_ROLE());
        settlement.unpause(ISettlement.Path.Settle);
        vm.prank(GUARDIAN);
        settlement.pause(ISettlement.Path.Settle);
        vm.prank(ADMIN);
        settlement.unpause(ISettlement.Path.Settle);
        _true(!settlement.settlePaused(), "undone");
    }

    function test_parametersStayInTheirBounds() public {
        vm.startPrank(ADMIN);
        vm.expectRevert(ISettlement.OutOfBounds.selector);
        settlement.setFeeBps(2_001);
        settlement.setFeeBps(2_000);
        vm.expectRevert(ISettlement.OutOfBounds.selector);
        settlement.setClaimDelay(30 days + 1);
        settlement.setClaimDelay(30 days);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        settlement.setTreasury(address(0));
        settlement.setTreasury(STRANGER);
        vm.stopPrank();
        _same(settlement.feeBps(), 2_000, "fee");
        _same(settlement.claimDelay(), 30 days, "delay");
        _same(settlement.treasury(), STRANGER, "treasury");
    }

    function test_aDeploymentMustNameItsPartners() public {
        ISettlement.Setup memory setup = _setup(address(token));
        setup.vault = address(0);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        _newSettlement(setup);
        setup = _setup(address(0));
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        _newSettlement(setup);
        setup = _setup(address(token));
        setup.treasury = address(0);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        _newSettlement(setup);
        setup = _setup(address(token));
        setup.laneAdmin = address(0);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        _newSettlement(setup);
        setup = _setup(address(token));
        setup.feeBps = 2_001;
        vm.expectRevert(ISettlement.OutOfBounds.selector);
        _newSettlement(setup);
    }

    function test_theAdminChangesInTwoStepsAndADelay() public {
        vm.prank(ADMIN);
        settlement.beginDefaultAdminTransfer(STRANGER);
        _later(1 days + 1);
        vm.prank(STRANGER);
        settlement.acceptDefaultAdminTransfer();
        _same(settlement.defaultAdmin(), STRANGER, "admin");
    }

    // ---- lanes

    function test_aLaneIsOpenedOnce() public {
        vm.startPrank(LANE_ADMIN);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneKnown.selector, LANE));
        settlement.openLane(LANE, STRANGER, STRANGER);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        settlement.openLane(8, address(0), STRANGER);
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneKnown.selector, LANE));
        settlement.reopenLane(LANE, STRANGER);
        vm.stopPrank();
    }

    function test_aNewSignerSignsFromThenOn() public {
        vm.startPrank(LANE_ADMIN);
        vm.expectRevert(ISettlement.ZeroAddress.selector);
        settlement.setLaneSigner(LANE, address(0));
        settlement.setLaneSigner(LANE, vm.addr(0xB0B));
        vm.stopPrank();
        bytes memory data = hex"01000000000000";
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, 1, 0, 0, data, type(uint64).max));
        vm.expectRevert(ISettlement.BadSignature.selector);
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, r, vs, data);
        (r, vs) = _sign(0xB0B, _digest(LANE, 1, 0, 0, data, type(uint64).max));
        settlement.settle(LANE, 1, 0, 0, type(uint64).max, r, vs, data);
    }

    function test_aClosedLaneIsReopenedWithAnotherSignerAndTheSameChain() public {
        uint32 payer = _payer(100);
        uint32 provider = _provider();
        _settle(_single(1, payer, provider, 10));
        vm.prank(GUARDIAN);
        settlement.closeLane(LANE);
        _same(settlement.laneOf(LANE).state, 2, "closed");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.LaneNotActive.selector, LANE));
        vm.prank(GUARDIAN);
        settlement.closeLane(LANE);
        vm.prank(LANE_ADMIN);
        settlement.reopenLane(LANE, vm.addr(SIGNER_KEY));
        ISettlement.Lane memory lane = settlement.laneOf(LANE);
        _same(lane.state, 1, "active");
        _same(lane.seq, 1, "seq");
        _same(lane.chainHash, chain, "chain hash");
        _settle(_single(1, payer, provider, 10));
        _same(_balance(payer), 90, "still paid once");
    }

    function test_theLaneAdminClosesToo() public {
        _expectUnauthorized(STRANGER, settlement.LANE_ADMIN());
        settlement.closeLane(LANE);
        vm.prank(LANE_ADMIN);
        settlement.closeLane(LANE);
        _same(settlement.laneOf(LANE).state, 2, "closed");
    }
}
