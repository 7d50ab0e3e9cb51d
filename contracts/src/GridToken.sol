// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title GridToken: the token of test chains and of the demo.
/// @notice A plain ERC-20 of fixed supply with permit (EIP-2612) and votes (ERC-5805). Settlement and StakeVault take any
/// standard ERC-20; a real deployment brings its own.
contract GridToken is ERC20, ERC20Permit, ERC20Votes {
    uint8 private immutable _decimals;

    /// @param decimals_ decimals of a whole token; 18 unless a test wants something else
    /// @param supply all tokens there will ever be, in the smallest unit; they belong to the deployer
    constructor(string memory name_, string memory symbol_, uint8 decimals_, uint256 supply)
        ERC20(name_, symbol_)
        ERC20Permit(name_)
    {
        _decimals = decimals_;
        _mint(msg.sender, supply);
    }

    function decimals() public view override returns (uint8) {
        return _decimals;
    }

    /// @notice Votes are counted at Unix seconds, so that a Governor's periods are seconds too.
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }
}
