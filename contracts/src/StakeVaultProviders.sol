// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {StakeVaultStorage} from "./StakeVaultStorage.sol";

/// @title Providers: who stands behind an account number and on which terms.
abstract contract StakeVaultProviders is StakeVaultStorage {
    function register(address operator, address beneficiary)
        external
        whenOpen(Path.Inflow)
        returns (uint32 provider)
    {
        if (operator == address(0) || beneficiary == address(0)) revert ZeroAddress();
        if (operator == msg.sender) revert StakerIsOperator();
        provider = ++_providerCount;
        ProviderState storage state = _providers[provider];
        state.staker = msg.sender;
        state.operator = operator;
        state.beneficiary = beneficiary;
        state.registeredAt = uint64(block.timestamp);
        state.payableAt = _deadline(Parameter.CoolingTime);
        emit Registered(provider, msg.sender, operator, beneficiary, state.payableAt);
    }

    /// @notice Staker. Certificates that the earlier operator signed no longer count: they name another signer.
    function setOperator(uint32 provider, address operator) external {
        ProviderState storage state = _ownedByCaller(provider);
        if (operator == address(0)) revert ZeroAddress();
        if (operator == state.staker) revert StakerIsOperator();
        state.operator = operator;
        emit OperatorChanged(provider, operator);
    }

    function setBeneficiary(uint32 provider, address beneficiary) external {
        ProviderState storage state = _ownedByCaller(provider);
        if (beneficiary == address(0)) revert ZeroAddress();
        state.beneficiary = beneficiary;
        emit BeneficiaryChanged(provider, beneficiary);
    }

    function setCommission(uint32 provider, uint16 bps) external {
        ProviderState storage state = _ownedByCaller(provider);
        if (bps > parameter(Parameter.MaxCommissionBps)) revert OutOfBounds();
        // What was credited until now is divided on the terms of until now.
        _divide(provider);
        uint16 present = _commission(state);
        state.commissionBps = present;
        state.nextCommissionBps = bps;
        state.nextCommissionFrom = bps > present ? _deadline(Parameter.UnbondingTime) : uint64(block.timestamp);
        emit CommissionChanged(provider, bps, state.nextCommissionFrom);
    }

    /// @notice Operator: the hash of the devices that the provider offers.
    function setInventory(uint32 provider, bytes32 hash) external {
        ProviderState storage state = _known(provider);
        if (msg.sender != state.operator) revert NotOperator();
        state.inventoryHash = hash;
        emit InventorySet(provider, hash);
    }

    function revokeSessions(uint32 provider) external {
        ProviderState storage state = _known(provider);
        if (msg.sender != state.staker && msg.sender != state.operator) revert NotAuthorised();
        emit SessionsRevoked(provider, ++state.sessionEpoch);
    }

    function providerCount() external view returns (uint32) {
        return _providerCount;
    }

    function sessionEpoch(uint32 provider) external view returns (uint64) {
        return _known(provider).sessionEpoch;
    }

    function providerOf(uint32 provider) external view returns (Provider memory) {
        ProviderState storage state = _known(provider);
        return Provider({
            staker: state.staker,
            operator: state.operator,
            beneficiary: state.beneficiary,
            registeredAt: state.registeredAt,
            payableAt: state.payableAt,
            own: state.own,
            delegated: state.delegated.amount,
            unbonding: state.ownUnbonding.amount + state.delegatedUnbonding.amount,
            frozen: state.frozen,
            sessionEpoch: state.sessionEpoch,
            commissionBps: _commission(state),
            inventoryHash: state.inventoryHash
        });
    }
}
