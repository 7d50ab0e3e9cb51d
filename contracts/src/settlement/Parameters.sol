// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";

/// @title Roles, pauses and bounded parameters of the settlement.
/// @notice Each parameter has a bound in code, so that no role, the admin included, can set a value that takes
/// providers' money (a fee of 100 %) or locks it up (a delay of years).
abstract contract Parameters is ISettlement, AccessControlDefaultAdminRules {
    /// @notice Opens lanes and changes their signers. Held by a timelock.
    bytes32 public constant LANE_ADMIN = keccak256("LANE_ADMIN_ROLE");
    /// @notice Pauses paths and closes lanes. Never moves funds.
    bytes32 public constant GUARDIAN = keccak256("GUARDIAN_ROLE");

    /// @notice 20 %.
    uint16 public constant MAX_FEE_BPS = 2_000;
    uint64 public constant MAX_CLAIM_DELAY = 30 days;

    uint256 internal constant BPS = 10_000;

    // One slot: settle reads the pause from it.
    address public treasury;
    uint64 public claimDelay;
    uint16 public feeBps;
    uint8 private _paused; // bit n: Path n

    constructor(Setup memory setup) AccessControlDefaultAdminRules(setup.adminDelay, setup.admin) {
        if (setup.laneAdmin == address(0)) revert ZeroAddress();
        _grantRole(LANE_ADMIN, setup.laneAdmin);
        if (setup.guardian != address(0)) _grantRole(GUARDIAN, setup.guardian);
        _setTreasury(setup.treasury);
        _setFeeBps(setup.feeBps);
        _setClaimDelay(setup.claimDelay);
    }

    function pause(Path path) external onlyRole(GUARDIAN) {
        _paused |= _bit(path);
        emit PathPaused(path);
    }

    function unpause(Path path) external {
        if (!hasRole(GUARDIAN, msg.sender)) _checkRole(DEFAULT_ADMIN_ROLE);
        _paused &= ~_bit(path);
        emit PathUnpaused(path);
    }

    function settlePaused() external view returns (bool) {
        return _isPaused(Path.Settle);
    }

    function claimPaused() external view returns (bool) {
        return _isPaused(Path.Claim);
    }

    function withdrawPaused() external view returns (bool) {
        return _isPaused(Path.Withdraw);
    }

    function setFeeBps(uint16 bps) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setFeeBps(bps);
    }

    function setClaimDelay(uint64 delay) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setClaimDelay(delay);
    }

    function setTreasury(address treasury_) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setTreasury(treasury_);
    }

    function _requireNotPaused(Path path) internal view {
        if (_isPaused(path)) revert Paused();
    }

    function _isPaused(Path path) private view returns (bool) {
        return _paused & _bit(path) != 0;
    }

    function _bit(Path path) private pure returns (uint8) {
        return uint8(1 << uint8(path));
    }

    function _setFeeBps(uint16 bps) private {
        if (bps > MAX_FEE_BPS) revert OutOfBounds();
        feeBps = bps;
        emit FeeChanged(bps);
    }

    function _setClaimDelay(uint64 delay) private {
        if (delay > MAX_CLAIM_DELAY) revert OutOfBounds();
        claimDelay = delay;
        emit ClaimDelayChanged(delay);
    }

    function _setTreasury(address treasury_) private {
        if (treasury_ == address(0)) revert ZeroAddress();
        treasury = treasury_;
        emit TreasuryChanged(treasury_);
    }
}
