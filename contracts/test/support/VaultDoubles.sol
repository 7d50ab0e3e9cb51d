// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakeVault} from "../../src/interfaces/IStakeVault.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";

/// @dev As much of a settlement as the vault asks of one.
abstract contract VaultPartner {
    address public immutable vault;
    address public immutable token;

    constructor(address vault_, address token_) {
        vault = vault_;
        token = token_;
    }

    function asSettlement() external view returns (ISettlement) {
        return ISettlement(address(this));
    }
}

/// @dev Tells the vault of rewards and sends none.
contract EmptyPromises is VaultPartner {
    constructor(address vault_, address token_) VaultPartner(vault_, token_) {}

    function creditOf(uint32) external pure returns (uint64) {
        return 0;
    }

    function divide(uint32 provider) external {
        IStakeVault(vault).divideRewards(provider, 1_000);
    }
}

/// @dev Fails whatever it is asked to divide.
contract BrokenSettlement is VaultPartner {
    constructor(address vault_, address token_) VaultPartner(vault_, token_) {}

    function creditOf(uint32) external pure returns (uint64) {
        return 1;
    }

    function divide(uint32) external pure {
        revert("broken");
    }
}

/// @dev Calls the vault back whenever it is asked to divide, and counts what the vault let it do.
contract ReenteringSettlement is VaultPartner {
    bytes[] private _calls;
    uint256 private _slash;
    uint256 public asked;
    uint256 public succeeded;
    /// @dev The state in which the vault showed the slash.
    IStakeVault.SlashState public seen;

    constructor(address vault_, address token_) VaultPartner(vault_, token_) {}

    function onDivide(uint256 slash, bytes[] calldata calls) external {
        _slash = slash;
        for (uint256 i = 0; i < calls.length; i++) {
            _calls.push(calls[i]);
        }
    }

    function creditOf(uint32) external pure returns (uint64) {
        return 0;
    }

    function divide(uint32) external {
        if (_slash == 0) return;
        asked++;
        seen = IStakeVault(vault).slashOf(_slash).state;
        for (uint256 i = 0; i < _calls.length; i++) {
            (bool ok,) = vault.call(_calls[i]);
            if (ok) succeeded++;
        }
    }
}
