// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IStakeVault} from "../../src/interfaces/IStakeVault.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";

/// @dev What the settlement asks of the vault, and nothing else; delegators' part of a provider is a number.
contract StandInVault {
    uint32 public providerCount;
    mapping(uint32 provider => uint16) public delegatorsBps;
    /// @dev What it was told that delegators get, in nano-tokens.
    uint256 public owed;
    bool public greedy;
    mapping(uint32 provider => IStakeVault.Provider) private _providers;

    function register(address beneficiary, uint64 payableAt) external returns (uint32 provider) {
        provider = ++providerCount;
        _providers[provider].beneficiary = beneficiary;
        _providers[provider].payableAt = payableAt;
    }

    function setBeneficiary(uint32 provider, address beneficiary) external {
        _providers[provider].beneficiary = beneficiary;
    }

    function setDelegatorsBps(uint32 provider, uint16 bps) external {
        delegatorsBps[provider] = bps;
    }

    /// @dev Asks for more than there is to divide.
    function setGreedy() external {
        greedy = true;
    }

    function divideRewards(uint32 provider, uint64 amount) external returns (uint64 toDelegators) {
        if (greedy) return amount + 1;
        toDelegators = uint64(uint256(amount) * delegatorsBps[provider] / 10_000);
        owed += toDelegators;
    }

    function providerOf(uint32 provider) external view returns (IStakeVault.Provider memory) {
        return _providers[provider];
    }
}

/// @dev Keeps one percent of each transfer.
contract TokenWithFee is ERC20 {
    constructor(uint256 supply) ERC20("Fee", "FEE") {
        _mint(msg.sender, supply);
    }

    function _update(address from, address to, uint256 value) internal override {
        uint256 fee = from == address(0) ? 0 : value / 100;
        super._update(from, to, value - fee);
        if (fee != 0) super._update(from, address(0), fee);
    }
}

/// @dev Calls whom it is told to during a transfer, as ERC-777 would, and refuses whom it is told to refuse.
contract TokenWithHooks is ERC20 {
    address private _target;
    bytes private _call;
    address private _refused;
    bytes public answer;
    bool public succeeded;

    constructor(uint256 supply) ERC20("Hooks", "HOOK") {
        _mint(msg.sender, supply);
    }

    function onTransfer(address target, bytes calldata call_) external {
        _target = target;
        _call = call_;
    }

    function refuse(address to) external {
        _refused = to;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(to != _refused || to == address(0), "refused");
        if (_target != address(0)) {
            address target = _target;
            _target = address(0);
            (succeeded, answer) = target.call(_call);
        }
        super._update(from, to, value);
    }
}
