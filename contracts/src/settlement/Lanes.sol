// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {Accounts} from "./Accounts.sol";
import {Holdings} from "./Holdings.sol";

/// @title Lanes and their payers.
/// @notice A payer's account belongs to one lane, so a deposit is at once the mandate of that lane's signer and its cap.
abstract contract Lanes is Holdings {
    uint8 internal constant ACTIVE = 1;
    uint8 internal constant CLOSED = 2;

    /// @notice From the request of a withdrawal to its payment: the lane can settle what was used until then.
    uint64 public constant THAW_TIME = 7 days;

    /// @dev The first four in one slot, the only one besides `chainHash` that a batch reads and writes.
    struct LaneData {
        address signer;
        uint48 seq;
        uint8 state;
        uint32 payers;
        bytes32 chainHash;
    }

    mapping(uint32 lane => LaneData) internal _lanes;
    mapping(uint32 lane => mapping(uint32 payer => address)) private _owners;
    mapping(uint32 lane => mapping(uint32 payer => Thaw)) private _thaws;

    // ---- lanes

    function openLane(uint32 lane, address signer, address rewardsOwner) external onlyRole(LANE_ADMIN) {
        LaneData storage data = _lanes[lane];
        if (data.state != 0) revert LaneKnown(lane);
        if (signer == address(0)) revert ZeroAddress();
        data.state = ACTIVE;
        data.signer = signer;
        emit LaneOpened(lane, signer);
        _openPayer(lane, 0, rewardsOwner);
    }

    function setLaneSigner(uint32 lane, address signer) external onlyRole(LANE_ADMIN) {
        _requireActive(lane);
        if (signer == address(0)) revert ZeroAddress();
        _lanes[lane].signer = signer;
        emit LaneSignerChanged(lane, signer);
    }

    function closeLane(uint32 lane) external {
        if (!hasRole(GUARDIAN, msg.sender)) _checkRole(LANE_ADMIN);
        _requireActive(lane);
        _lanes[lane].state = CLOSED;
        emit LaneClosed(lane);
    }

    function reopenLane(uint32 lane, address signer) external onlyRole(LANE_ADMIN) {
        LaneData storage data = _lanes[lane];
        if (data.state != CLOSED) revert LaneKnown(lane);
        if (signer == address(0)) revert ZeroAddress();
        data.state = ACTIVE;
        data.signer = signer;
        emit LaneReopened(lane, signer);
    }

    function head(uint32 lane) external view returns (uint64 seq, bytes32 chainHash) {
        LaneData storage data = _lanes[lane];
        return (data.seq, data.chainHash);
    }

    function laneOf(uint32 lane) external view returns (Lane memory) {
        LaneData storage data = _lanes[lane];
        return Lane({signer: data.signer, seq: data.seq, state: data.state, chainHash: data.chainHash});
    }

    // ---- payers

    function registerPayer(uint32 lane) external returns (uint32 payer) {
        _requireActive(lane);
        payer = ++_lanes[lane].payers;
        _openPayer(lane, payer, msg.sender);
    }

    function deposit(uint32 lane, uint32 payer, uint64 amount) external nonReentrant {
        _deposit(lane, payer, amount);
    }

    function depositWithPermit(
        uint32 lane,
        uint32 payer,
        uint64 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        // Someone may have sent the permit before: then the allowance is there, and if not, the transfer says so.
        try IERC20Permit(address(_token)).permit(msg.sender, address(this), _units(amount), deadline, v, r, s) {}
            catch {}
        _deposit(lane, payer, amount);
    }

    function thaw(uint32 lane, uint32 payer, uint64 amount) external {
        _requireOwner(lane, payer);
        uint64 due = amount == 0 ? 0 : uint64(block.timestamp) + THAW_TIME;
        _thaws[lane][payer] = Thaw({amount: amount, due: due});
        emit ThawRequested(lane, payer, amount, due);
    }

    function withdraw(uint32 lane, uint32 payer) external nonReentrant returns (uint64 amount) {
        _requireNotPaused(Path.Withdraw);
        _requireOwner(lane, payer);
        Thaw memory request = _thaws[lane][payer];
        if (request.amount == 0) revert NothingToDo();
        if (block.timestamp < request.due) revert NotDue(request.due);
        uint64 balance = balanceOf(lane, payer);
        amount = _whole(request.amount < balance ? request.amount : balance);
        delete _thaws[lane][payer];
        Accounts.sub(Accounts.payers(lane), payer, amount);
        emit Withdrawn(lane, payer, amount);
        if (amount != 0) _pay(msg.sender, amount);
    }

    function payerOwner(uint32 lane, uint32 payer) external view returns (address) {
        return _owners[lane][payer];
    }

    function payerCount(uint32 lane) external view returns (uint32) {
        return _lanes[lane].payers;
    }

    function balanceOf(uint32 lane, uint32 payer) public view returns (uint64) {
        return Accounts.amountOf(Accounts.payers(lane), payer);
    }

    function thawOf(uint32 lane, uint32 payer) external view returns (Thaw memory) {
        return _thaws[lane][payer];
    }

    function _openPayer(uint32 lane, uint32 payer, address owner) private {
        Accounts.open(Accounts.payers(lane), payer);
        _owners[lane][payer] = owner;
        emit PayerRegistered(lane, payer, owner);
    }

    function _deposit(uint32 lane, uint32 payer, uint64 amount) private {
        _requireActive(lane);
        if (!Accounts.isLive(Accounts.payers(lane), payer)) revert UnknownPayer(lane, payer);
        if (amount == 0) revert NothingToDo();
        _receive(amount);
        Accounts.add(Accounts.payers(lane), payer, amount);
        emit Deposited(lane, payer, msg.sender, amount);
    }

    function _requireActive(uint32 lane) private view {
        if (_lanes[lane].state != ACTIVE) revert LaneNotActive(lane);
    }

    function _requireOwner(uint32 lane, uint32 payer) private view {
        // Nobody is the zero address, so an account without an owner has no caller that passes.
        if (_owners[lane][payer] != msg.sender) revert NotOwner();
    }
}
