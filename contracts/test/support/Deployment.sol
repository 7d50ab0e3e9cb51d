// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {
    IAccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/IAccessControlDefaultAdminRules.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {IStakeVault} from "../../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../../src/StakeVaultParameters.sol";
import {Test} from "./Test.sol";

/// @dev All that a settlement answers to.
interface DeployedSettlement is ISettlement, IAccessControl, IAccessControlDefaultAdminRules {
    // solhint-disable func-name-mixedcase
    function DEFAULT_ADMIN_ROLE() external view returns (bytes32);
    function LANE_ADMIN() external view returns (bytes32);
    function GUARDIAN() external view returns (bytes32);
    function BATCH_TYPEHASH() external view returns (bytes32);
    // solhint-enable func-name-mixedcase
    function domainSeparator() external view returns (bytes32);
}

/// @dev All that a vault answers to.
interface DeployedVault is IStakeVault, IAccessControl, IAccessControlDefaultAdminRules {
    // solhint-disable func-name-mixedcase
    function DEFAULT_ADMIN_ROLE() external view returns (bytes32);
    function LANE_ADMIN_ROLE() external view returns (bytes32);
    function ARBITER_ROLE() external view returns (bytes32);
    function GUARDIAN_ROLE() external view returns (bytes32);
    function SLASH_TYPEHASH() external view returns (bytes32);
    function FREEZE_WINDOW() external view returns (uint48);
    function MAX_TICKETS() external view returns (uint256);
    // solhint-enable func-name-mixedcase
    function parameter(StakeVaultParameters.Parameter which) external view returns (uint256);
    function boundsOf(StakeVaultParameters.Parameter which) external pure returns (uint256 least, uint256 greatest);
    function setParameter(StakeVaultParameters.Parameter which, uint256 value) external;
    function treasury() external view returns (address);
    function setTreasury(address treasury) external;
    function paused(StakeVaultParameters.Path path) external view returns (bool);
    function setPaused(StakeVaultParameters.Path path, bool paused) external;
    function setSlashSigner(uint32 lane, address signer) external;
    function settlement() external view returns (address);
    function setSettlement(ISettlement settlement) external;
    function liabilities() external view returns (uint128 principal, uint128 rewards, uint128 slashed);
}

/// @dev All of GridToken that tests use.
interface DeployedToken is IERC20Metadata, IERC20Permit, IVotes {}

/// @dev Deploys what was compiled for production: tests are compiled by themselves, without the slow optimizer, and must
/// not import the contracts.
abstract contract Deployment is Test {
    function _newToken(uint8 decimals, uint256 supply) internal returns (DeployedToken) {
        return DeployedToken(vm.deployCode("GridToken.sol:GridToken", abi.encode("Grid", "GRID", decimals, supply)));
    }

    function _newSettlement(ISettlement.Setup memory setup) internal returns (DeployedSettlement) {
        return DeployedSettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(setup)));
    }

    function _newVault(address token, address admin, address treasury) internal returns (DeployedVault) {
        return DeployedVault(
            vm.deployCode("StakeVault.sol:StakeVault", abi.encode(token, admin, uint48(1 days), treasury))
        );
    }
}
