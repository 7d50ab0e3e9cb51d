// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IStakeVault} from "../../src/interfaces/IStakeVault.sol";
import {StakeVaultParameters} from "../../src/StakeVaultParameters.sol";
import {DeployedVault} from "./Deployment.sol";
import {LaneFixture} from "./LaneFixture.sol";

/// @dev The vault and the settlement as they are deployed together, with one registered provider.
abstract contract VaultFixture is LaneFixture {
    uint256 internal constant SLASH_KEY = 0x51A54;
    uint128 internal constant TOKEN = 1e9; // nano-tokens
    uint64 internal constant UNBONDING = 604_800;
    uint64 internal constant DISPUTE = 48 hours;
    address internal constant ARBITER = address(0xA5);
    address internal constant STAKER = address(0x5A);
    address internal constant OPERATOR = address(0x09);
    address internal constant DELEGATOR = address(0xDE);
    address internal constant LATE = address(0x1A7E);

    DeployedVault internal vault;
    uint32 internal provider;

    function _deploy(uint8 decimals) internal {
        vm.warp(1_800_000_000);
        token = _newToken(decimals, 10 ** (uint256(decimals) + 11));
        vault = _newVault(address(token), ADMIN, TREASURY);
        settlement = _newSettlement(_setup(address(token), address(vault)));
        bytes32 laneAdmin = vault.LANE_ADMIN_ROLE();
        bytes32 arbiter = vault.ARBITER_ROLE();
        bytes32 guardian = vault.GUARDIAN_ROLE();
        vm.startPrank(ADMIN);
        vault.setSettlement(settlement);
        vault.grantRole(laneAdmin, LANE_ADMIN);
        vault.grantRole(arbiter, ARBITER);
        vault.grantRole(guardian, GUARDIAN);
        vm.stopPrank();
        vm.prank(LANE_ADMIN);
        vault.setSlashSigner(LANE, vm.addr(SLASH_KEY));
        _openLane(LANE);
        token.approve(address(settlement), type(uint256).max);
        _fund(STAKER);
        _fund(DELEGATOR);
        _fund(LATE);
        provider = _register();
    }

    /// @dev Ten million tokens, and the vault may take them.
    function _fund(address account) internal {
        token.transfer(account, _units(uint64(10_000_000 * TOKEN)));
        vm.prank(account);
        token.approve(address(vault), type(uint256).max);
    }

    function _register() internal returns (uint32) {
        vm.prank(STAKER);
        return vault.register(OPERATOR, BENEFICIARY);
    }

    function _stake(uint128 amount) internal {
        vm.prank(STAKER);
        vault.stake(provider, amount);
    }

    function _delegate(address account, uint128 amount) internal returns (uint128 shares) {
        vm.prank(account);
        return vault.delegate(provider, amount);
    }

    function _unbond(uint128 amount) internal returns (uint32 ticket) {
        vm.prank(STAKER);
        return vault.requestUnbond(provider, amount);
    }

    function _undelegate(address account, uint128 shares) internal returns (uint32 ticket) {
        vm.prank(account);
        return vault.requestUndelegate(provider, shares);
    }

    function _withdraw(address account, uint32 ticket) internal returns (uint128) {
        vm.prank(account);
        return vault.withdraw(provider, ticket);
    }

    function _set(StakeVaultParameters.Parameter which, uint256 value) internal {
        vm.prank(ADMIN);
        vault.setParameter(which, value);
    }

    function _own() internal view returns (uint128) {
        return vault.providerOf(provider).own;
    }

    function _worth(address delegator) internal view returns (uint128 amount) {
        (, amount) = vault.delegationOf(provider, delegator);
    }

    /// @dev Nano-tokens of the token that an account holds.
    function _held(address account) internal view returns (uint256) {
        return token.balanceOf(account) * NANO_PER_TOKEN / 10 ** token.decimals();
    }

    // ---- slashes

    /// @dev The digest of a slash as EIP-712 describes it, without the contract's help.
    function _slashDigest(uint32 lane, bytes32 incident, uint32 who, uint128 amount, bytes32 evidence, uint64 until)
        internal
        view
        returns (bytes32)
    {
        bytes32 content = keccak256(
            abi.encode(
                keccak256(
                    "Slash(uint32 lane,bytes32 incidentId,uint32 provider,uint128 amount,bytes32 evidence,uint64 validUntil)"
                ),
                lane,
                incident,
                who,
                amount,
                evidence,
                until
            )
        );
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Gridstake StakeVault"),
                keccak256("1"),
                block.chainid,
                address(vault)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, content));
    }

    /// @dev Sends a well-signed proposal against the provider from `sender`.
    function _proposeFrom(address sender, bytes32 incident, uint128 amount) internal returns (uint256 id) {
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, incident, provider, amount, "evidence", _now()));
        vm.prank(sender);
        return vault.proposeSlash(LANE, incident, provider, amount, "evidence", _now(), r, vs);
    }

    /// @dev A proposal that the freeze cap holds for.
    function _propose(bytes32 incident, uint128 amount) internal returns (uint256 id) {
        return _proposeFrom(STRANGER, incident, amount);
    }

    /// @dev A proposal that the freeze cap does not hold for.
    function _proposeAny(bytes32 incident, uint128 amount) internal returns (uint256 id) {
        return _proposeFrom(ARBITER, incident, amount);
    }

    function _dispute(uint256 id) internal {
        vm.prank(OPERATOR);
        vault.disputeSlash(id, "counter");
    }

    function _resolve(uint256 id, uint128 upheld) internal {
        vm.prank(ARBITER);
        vault.resolveSlash(id, upheld);
    }

    /// @dev Slashes what is asked for, undisputed.
    function _slash(bytes32 incident, uint128 amount) internal {
        uint256 id = _proposeAny(incident, amount);
        _later(DISPUTE + 1);
        vault.finalizeSlash(id);
    }

    function _frozen() internal view returns (uint128) {
        return vault.providerOf(provider).frozen;
    }

    function _sameState(uint256 id, IStakeVault.SlashState want) internal view {
        _same(uint256(vault.slashOf(id).state), uint256(want), "state of the slash");
    }

    // ---- rewards

    /// @dev A payer of this contract, and the provider active.
    function _earning() internal returns (uint32 payer) {
        _later(1 days);
        settlement.activateProvider(provider);
        return _payer(1e18);
    }

    function _earn(uint32 payer, uint64 amount) internal {
        _settle(_single(seq, payer, provider, amount));
    }
}
