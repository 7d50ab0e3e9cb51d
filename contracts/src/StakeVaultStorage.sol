// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {ISettlement} from "./interfaces/ISettlement.sol";
import {StakeVaultParameters} from "./StakeVaultParameters.sol";
import {Pool, StakeVaultPool} from "./StakeVaultPool.sol";

/// @title What the vault keeps, how its token moves, and how it talks to Settlement.
abstract contract StakeVaultStorage is StakeVaultParameters {
    using SafeERC20 for IERC20;
    using StakeVaultPool for Pool;

    struct ProviderState {
        address staker;
        uint64 registeredAt;
        uint16 commissionBps;
        uint16 nextCommissionBps;
        address operator;
        uint64 payableAt;
        address beneficiary;
        uint64 nextCommissionFrom;
        bytes32 inventoryHash;
        uint128 own;
        uint128 frozen;
        Pool ownUnbonding;
        Pool delegated;
        Pool delegatedUnbonding;
        // rewards of one share of `delegated` so far, times 2^128
        uint256 rewardIndex;
        uint64 sessionEpoch;
    }

    /// What an account has delegated to a provider and the rewards of it.
    /// owed: earned, not in a claim yet. claimed: in the open claim, which is due at claimDue.
    struct Delegation {
        uint128 shares;
        uint32 era;
        uint64 claimDue;
        uint256 index;
        uint128 owed;
        uint128 claimed;
    }

    /// Shares of the provider's pool of own or of delegated unbonding stake.
    struct TicketState {
        uint32 id;
        uint32 era;
        uint48 unlockAt;
        bool own;
        uint128 shares;
    }

    /// @notice The most stake that the vault takes (nano-tokens); keeps all arithmetic within bounds.
    uint128 public constant MAX_PRINCIPAL = 1e28;

    IERC20 internal immutable TOKEN_;
    /// The token's units in a nano-token; 1 if it counts fewer than 9 decimals
    uint256 internal immutable UNITS_PER_NANO;
    /// Nano-tokens in a unit of the token; 1 if it counts 9 decimals or more
    uint128 internal immutable NANO_PER_UNIT;

    ISettlement internal _settlement;
    uint32 internal _providerCount;
    mapping(uint32 provider => ProviderState) internal _providers;
    mapping(uint32 provider => mapping(address account => Delegation)) internal _delegations;
    mapping(uint32 provider => mapping(address account => TicketState[])) internal _tickets;
    mapping(uint32 provider => mapping(address account => uint32)) internal _lastTicket;
    /// The reward index when an era of the delegated pool ended, plus `WIPED` if the pool was taken whole.
    mapping(uint32 provider => mapping(uint32 era => uint256)) internal _eraEnd;
    uint256 internal constant WIPED = 1 << 255;

    /// What the vault owes: all stake; rewards of delegators; slashed funds that are not paid to the treasury yet.
    uint128 internal _principal;
    uint128 internal _rewards;
    uint128 internal _slashed;

    event SettlementSet(address settlement);

    constructor(IERC20 token_) {
        uint8 decimals = IERC20Metadata(address(token_)).decimals();
        if (decimals > 36) revert UnsupportedToken();
        TOKEN_ = token_;
        UNITS_PER_NANO = decimals > 9 ? 10 ** (decimals - 9) : 1;
        NANO_PER_UNIT = decimals < 9 ? uint128(10 ** (9 - decimals)) : 1;
    }

    function token() external view returns (address) {
        return address(TOKEN_);
    }

    function settlement() external view returns (address) {
        return address(_settlement);
    }

    /// @notice Admin, once: the only contract that can divide rewards.
    function setSettlement(ISettlement settlement_) external onlyRole(DEFAULT_ADMIN_ROLE) {
        if (address(_settlement) != address(0)) revert WrongState();
        if (settlement_.vault() != address(this) || settlement_.token() != address(TOKEN_)) revert NotSettlement();
        _settlement = settlement_;
        emit SettlementSet(address(settlement_));
    }

    /// @notice What the vault owes (nano-tokens): stake in every state, delegators' rewards, slashed funds. The vault's
    /// balance of the token is never below their sum.
    function liabilities() external view returns (uint128 principal, uint128 rewards, uint128 slashed) {
        return (_principal, _rewards, _slashed);
    }

    /// Refuses tokens that move another amount than asked.
    function _pull(uint128 amount) internal {
        if (amount == 0) revert AmountZero();
        if (amount % NANO_PER_UNIT != 0) revert NotWholeUnits(NANO_PER_UNIT);
        if (amount > MAX_PRINCIPAL - _principal) revert AmountTooLarge(MAX_PRINCIPAL - _principal);
        _principal += amount;
        uint256 units = uint256(amount) * UNITS_PER_NANO / NANO_PER_UNIT;
        uint256 before = TOKEN_.balanceOf(address(this));
        TOKEN_.safeTransferFrom(msg.sender, address(this), units);
        if (TOKEN_.balanceOf(address(this)) - before != units) revert UnsupportedToken();
    }

    /// Rewards are paid from what Settlement sent for them and never from stake, whatever Settlement says it sent.
    function _requireApartFromStake(uint128 amount) internal view {
        uint256 nano = TOKEN_.balanceOf(address(this)) * NANO_PER_UNIT / UNITS_PER_NANO;
        uint256 others = uint256(_principal) + _slashed;
        if (nano < others + amount) revert AmountTooLarge(nano < others ? 0 : uint128(nano - others));
    }

    /// `amount` is a multiple of NANO_PER_UNIT.
    function _push(address to, uint128 amount) internal {
        if (amount != 0) TOKEN_.safeTransfer(to, uint256(amount) * UNITS_PER_NANO / NANO_PER_UNIT);
    }

    /// The part of an amount that can be paid in units of the token.
    function _payable(uint128 amount) internal view returns (uint128) {
        return amount - amount % NANO_PER_UNIT;
    }

    /// Divides what was credited so far by the shares of now; for whatever would let somebody take part in earlier credit.
    function _divide(uint32 provider) internal {
        if (address(_settlement) != address(0) && _settlement.creditOf(provider) != 0) _settlement.divide(provider);
    }

    /// The same for exits and slashes, which nothing in Settlement may block. A caller cannot make the call fail by sending
    /// too little gas: the 64th part that is left would not suffice for the rest.
    function _tryDivide(uint32 provider) internal {
        if (address(_settlement) == address(0)) return;
        try _settlement.divide(provider) {} catch {}
    }

    function _known(uint32 provider) internal view returns (ProviderState storage state) {
        state = _providers[provider];
        if (state.staker == address(0)) revert UnknownProvider(provider);
    }

    function _ownedByCaller(uint32 provider) internal view returns (ProviderState storage state) {
        state = _known(provider);
        if (state.staker != msg.sender) revert NotStaker();
    }

    function _commission(ProviderState storage state) internal view returns (uint16) {
        uint64 from = state.nextCommissionFrom;
        return from != 0 && block.timestamp >= from ? state.nextCommissionBps : state.commissionBps;
    }

    /// All stake of a provider's, in every state.
    function _atStake(ProviderState storage state) internal view returns (uint128) {
        return state.own + state.ownUnbonding.amount + state.delegated.amount + state.delegatedUnbonding.amount;
    }

    /// What the provider's own stake can pay out; frozen stake rests on it first, as a slash does.
    function _freeOwn(ProviderState storage state) internal view returns (uint128) {
        return _less(state.own + state.ownUnbonding.amount, state.frozen);
    }

    /// What delegators' stake can pay out.
    function _freeDelegated(ProviderState storage state) internal view returns (uint128) {
        uint128 held = _less(state.frozen, state.own + state.ownUnbonding.amount);
        return state.delegated.amount + state.delegatedUnbonding.amount - held;
    }

    function _less(uint128 a, uint128 b) internal pure returns (uint128) {
        return uint128(Math.saturatingSub(a, b));
    }

    function _min(uint128 a, uint128 b) internal pure returns (uint128) {
        return uint128(Math.min(a, b));
    }
}
