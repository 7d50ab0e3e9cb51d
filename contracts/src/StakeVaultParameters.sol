// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";

import {IStakeVault} from "./interfaces/IStakeVault.sol";

/// @title Parameters of the vault, each within bounds that no vote can leave; its pauses; its roles.
/// @notice The admin (DEFAULT_ADMIN_ROLE, one holder, handed on in two steps with a delay) is meant to be a
/// TimelockController whose proposer is a Governor. New values hold for what starts after them: deadlines are stored where
/// they are made.
abstract contract StakeVaultParameters is IStakeVault, AccessControlDefaultAdminRules {
    /// Amounts in nano-tokens, times in seconds, Bps in 1/10,000.
    enum Parameter {
        /// A miner is bonded with more than this.
        MinimumStakeMiner,
        /// A coordinator is bonded with more than this.
        MinimumStakeCoordinator,
        /// From the request to the withdrawal of stake; also the notice before a commission rises.
        UnbondingTime,
        /// From registration until the provider can be paid.
        CoolingTime,
        /// How long a proposed slash can be disputed.
        DisputeTime,
        /// How long after that the arbiter can decide a disputed one.
        ResolveTime,
        /// From a delegator's request for rewards to their payment.
        RewardsDelay,
        /// How much delegated stake counts at most, as a part of the provider's own.
        DelegationLimitBps,
        /// The least that can be delegated at once.
        MinimumDelegation,
        /// The highest commission that can be set.
        MaxCommissionBps,
        /// The part of a provider's stake that slashes may freeze within `FREEZE_WINDOW`; 10,000 means without limit.
        FreezeCapBps
    }

    /// What the guardian can stop. Asking for one's stake back, and every step of a slash, cannot be stopped.
    enum Path {
        /// register, stake, delegate, rebond
        Inflow,
        /// withdraw
        Withdrawals,
        /// claimRewards
        Rewards
    }

    /// @notice Sets the slash signers of lanes.
    bytes32 public constant LANE_ADMIN_ROLE = keccak256("LANE_ADMIN_ROLE");
    /// @notice Decides disputed slashes; its proposals are not held to the freeze cap.
    bytes32 public constant ARBITER_ROLE = keccak256("ARBITER_ROLE");
    /// @notice Cancels slashes and pauses paths.
    bytes32 public constant GUARDIAN_ROLE = keccak256("GUARDIAN_ROLE");

    /// @notice The freeze cap holds within any period of this length.
    uint48 public constant FREEZE_WINDOW = 7 days;

    uint256 internal constant BPS = 10_000;
    uint256 private constant TOKEN = 1e9;

    mapping(Parameter => uint256) private _values;
    mapping(Path => bool) private _paused;
    address private _treasury;

    event ParameterChanged(Parameter indexed parameter, uint256 value);
    event PathPaused(Path indexed path, bool paused);
    event TreasuryChanged(address treasury);

    constructor(address treasury_) {
        _setTreasury(treasury_);
        _values[Parameter.MinimumStakeMiner] = 20_000 * TOKEN;
        _values[Parameter.MinimumStakeCoordinator] = 2_000_000 * TOKEN;
        _values[Parameter.UnbondingTime] = 7 days;
        _values[Parameter.CoolingTime] = 1 days;
        _values[Parameter.DisputeTime] = 48 hours;
        _values[Parameter.ResolveTime] = 7 days;
        _values[Parameter.RewardsDelay] = 1 days;
        _values[Parameter.DelegationLimitBps] = BPS;
        _values[Parameter.MinimumDelegation] = TOKEN;
        _values[Parameter.MaxCommissionBps] = 2_000;
        _values[Parameter.FreezeCapBps] = 2_000;
    }

    /// @notice The least and the greatest value that a parameter can have.
    function boundsOf(Parameter which) public pure returns (uint256 least, uint256 greatest) {
        if (which <= Parameter.MinimumStakeCoordinator) return (0, 1e12 * TOKEN);
        if (which == Parameter.UnbondingTime) return (1 days, 90 days);
        if (which == Parameter.CoolingTime || which == Parameter.RewardsDelay) return (0, 30 days);
        if (which <= Parameter.ResolveTime) return (1 hours, 30 days);
        if (which == Parameter.DelegationLimitBps) return (0, 10 * BPS);
        if (which == Parameter.MinimumDelegation) return (1, 1e6 * TOKEN);
        if (which == Parameter.MaxCommissionBps) return (0, BPS);
        return (100, BPS);
    }

    function parameter(Parameter which) public view returns (uint256) {
        return _values[which];
    }

    /// @notice Admin. Refuses values out of bounds.
    function setParameter(Parameter which, uint256 value) external onlyRole(DEFAULT_ADMIN_ROLE) {
        (uint256 least, uint256 greatest) = boundsOf(which);
        if (value < least || value > greatest) revert OutOfBounds();
        _values[which] = value;
        emit ParameterChanged(which, value);
        if (which == Parameter.MinimumStakeMiner) emit MinimumStakeChanged(Role.Miner, uint128(value));
        if (which == Parameter.MinimumStakeCoordinator) emit MinimumStakeChanged(Role.Coordinator, uint128(value));
    }

    function minimumStake(Role role) public view returns (uint128) {
        return uint128(
            _values[role == Role.Miner ? Parameter.MinimumStakeMiner : Parameter.MinimumStakeCoordinator]
        );
    }

    function unbondingTime() public view returns (uint64) {
        return uint64(_values[Parameter.UnbondingTime]);
    }

    /// @notice Where slashed funds go.
    function treasury() public view returns (address) {
        return _treasury;
    }

    /// @notice Admin.
    function setTreasury(address treasury_) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setTreasury(treasury_);
    }

    function paused(Path path) public view returns (bool) {
        return _paused[path];
    }

    /// @notice Guardian or admin.
    function setPaused(Path path, bool paused_) external {
        if (!hasRole(GUARDIAN_ROLE, msg.sender)) _checkRole(DEFAULT_ADMIN_ROLE);
        _paused[path] = paused_;
        emit PathPaused(path, paused_);
    }

    modifier whenOpen(Path path) {
        _checkOpen(path);
        _;
    }

    function _checkOpen(Path path) private view {
        if (_paused[path]) revert Paused();
    }

    /// A period that starts now and lasts as long as the parameter says.
    function _deadline(Parameter which) internal view returns (uint64) {
        return uint64(block.timestamp + _values[which]);
    }

    function _setTreasury(address treasury_) private {
        if (treasury_ == address(0)) revert ZeroAddress();
        _treasury = treasury_;
        emit TreasuryChanged(treasury_);
    }
}
