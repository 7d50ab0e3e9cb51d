// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {LaneFixture} from "./LaneFixture.sol";
import {StandInVault} from "./SettlementDoubles.sol";

/// @dev A settlement beside a vault that only says what it is told.
abstract contract SettlementFixture is LaneFixture {
    StandInVault internal vault;

    function _deploy(uint8 decimals) internal {
        vm.warp(1_800_000_000);
        token = _newToken(decimals, 10 ** (uint256(decimals) + 11));
        _deployFor(address(token));
        token.approve(address(settlement), type(uint256).max);
    }

    function _deployFor(address token_) internal {
        vault = new StandInVault();
        settlement = _newSettlement(_setup(token_));
        _openLane(LANE);
    }

    function _setup(address token_) internal view returns (ISettlement.Setup memory) {
        return _setup(token_, address(vault));
    }

    /// @dev A registered and active provider.
    function _provider() internal returns (uint32 provider) {
        provider = vault.register(BENEFICIARY, 0);
        settlement.activateProvider(provider);
    }
}
