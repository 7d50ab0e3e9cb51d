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
