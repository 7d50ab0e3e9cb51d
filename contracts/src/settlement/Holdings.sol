// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IStakeVault} from "../interfaces/IStakeVault.sol";
import {Accounts} from "./Accounts.sol";
import {Parameters} from "./Parameters.sol";

/// @title What the settlement holds, and the only two ways in which tokens come and go.
/// @notice Books are kept in nano-tokens; tokens are converted here and nowhere else.
abstract contract Holdings is Parameters, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint8 private constant NANO_DECIMALS = 9;
    /// @dev Keeps 2^63 nano-tokens far inside 256 bits.
    uint8 private constant MAX_DECIMALS = 36;

    IERC20 internal immutable _token;
    IStakeVault internal immutable _vault;
    /// @dev Smallest units in a nano-token; 1 if the token has fewer than 9 decimals.
    uint256 private immutable _unitsPerNano;
    uint64 public immutable granularity;

    uint64 public held;

    constructor(address token_, address vault_) {
        if (token_ == address(0) || vault_ == address(0)) revert ZeroAddress();
        uint8 decimals = IERC20Metadata(token_).decimals();
        if (decimals > MAX_DECIMALS) revert UnsupportedToken();
        _token = IERC20(token_);
        _vault = IStakeVault(vault_);
        _unitsPerNano = decimals > NANO_DECIMALS ? 10 ** (decimals - NANO_DECIMALS) : 1;
        granularity = decimals < NANO_DECIMALS ? uint64(10 ** (NANO_DECIMALS - decimals)) : 1;
    }

    function token() external view returns (address) {
        return address(_token);
    }

    function vault() external view returns (address) {
        return address(_vault);
    }

    /// @notice In the token's smallest unit. `nano` is a multiple of the granularity.
    function _units(uint64 nano) internal view returns (uint256) {
        return nano * _unitsPerNano / granularity;
    }

    /// @notice The part of `nano` that the token can move.
    function _whole(uint64 nano) internal view returns (uint64) {
        return nano - nano % granularity;
    }

    /// @notice Takes `nano` from the caller and counts it as held.
    function _receive(uint64 nano) internal {
        if (nano % granularity != 0) revert BelowGranularity(granularity);
        if (uint256(held) + nano > Accounts.MAX_AMOUNT) revert Overflow();
        held += nano;
        uint256 units = _units(nano);
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(msg.sender, address(this), units);
        if (_token.balanceOf(address(this)) != before + units) revert UnsupportedToken();
    }

    /// @notice Pays `nano`, a multiple of the granularity; it is held no more.
    function _pay(address to, uint64 nano) internal {
        held -= nano;
        _token.safeTransfer(to, _units(nano));
    }
}
