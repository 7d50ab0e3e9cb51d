// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title StakeVault: providers, their stake and what others delegate to them, unbonding, slashing.
/// @notice All amounts are in nano-tokens (1e-9 of a whole token). No role can move principal except the slash path.
interface IStakeVault {
    enum Role {
        Miner,
        Coordinator
    }

    /// @param staker owns the stake
    /// @param operator signs agents' keys, sets the inventory, answers slashes; never the staker
    /// @param beneficiary gets rewards
    /// @param payableAt from when on it can be paid (Unix seconds): registration + cooling
    /// @param own its own bonded stake
    /// @param delegated what others have delegated
    /// @param unbonding own and delegated stake that is being withdrawn; still slashable
    /// @param frozen part of all of that which open slashes have frozen
    /// @param sessionEpoch agents' certificates of another epoch are void
    struct Provider {
        address staker;
        address operator;
        address beneficiary;
        uint64 registeredAt;
        uint64 payableAt;
        uint128 own;
        uint128 delegated;
        uint128 unbonding;
        uint128 frozen;
        uint64 sessionEpoch;
        uint16 commissionBps;
        bytes32 inventoryHash;
    }

    /// @notice Stake that one account withdraws.
    struct Ticket {
        uint32 id;
        uint128 amount;
        uint64 unlockAt;
    }

    enum SlashState {
        None,
        Proposed,
        Disputed,
        Upheld,
        Executed,
        Cancelled
    }

    enum CancelWhy {
        None,
        NotUpheld,
        NotDecided,
        Guardian,
        NothingAtStake
    }

    /// @param amount what was asked for
    /// @param frozen what could be frozen: at most the stake that is left
    /// @param upheld what the arbiter upheld, once resolved
    struct Slash {
        uint32 lane;
        uint32 provider;
        bytes32 incidentId;
        uint128 amount;
        uint128 frozen;
        uint128 upheld;
        bytes32 evidence;
        bytes32 counterEvidence;
        uint64 disputeUntil;
        uint64 resolveUntil;
        SlashState state;
        CancelWhy why;
    }

    event Registered(uint32 indexed provider, address indexed staker, address operator, address beneficiary, uint64 payableAt);
    event OperatorChanged(uint32 indexed provider, address operator);
    event BeneficiaryChanged(uint32 indexed provider, address beneficiary);
    event CommissionChanged(uint32 indexed provider, uint16 bps, uint64 from);
    event Staked(uint32 indexed provider, uint128 amount);
    event Delegated(uint32 indexed provider, address indexed delegator, uint128 amount, uint128 shares);
    event UnbondRequested(uint32 indexed provider, address indexed account, uint32 ticket, uint128 amount, uint64 unlockAt);
    event Rebonded(uint32 indexed provider, address indexed account, uint32 ticket, uint128 amount);
    event Withdrawn(uint32 indexed provider, address indexed account, uint32 ticket, uint128 amount);
    event SessionsRevoked(uint32 indexed provider, uint64 epoch);
    event InventorySet(uint32 indexed provider, bytes32 hash);
    event RewardsDivided(uint32 indexed provider, uint128 toDelegators);
    event RewardsRequested(uint32 indexed provider, address indexed delegator, uint128 amount, uint64 due);
    event RewardsPaid(uint32 indexed provider, address indexed delegator, uint128 amount);
    event SlashProposed(
        uint256 indexed id,
        uint32 indexed provider,
        bytes32 indexed incidentId,
        uint32 lane,
        uint128 frozen,
        bytes32 evidence,
        uint64 disputeUntil
    );
    event SlashDisputed(uint256 indexed id, uint32 indexed provider, bytes32 counterEvidence, uint64 resolveUntil);
    event SlashResolved(uint256 indexed id, uint32 indexed provider, uint128 upheld);
    event SlashExecuted(uint256 indexed id, uint32 indexed provider, uint128 fromStake, uint128 fromUnbonding);
    event SlashCancelled(uint256 indexed id, uint32 indexed provider, CancelWhy why);
    event SlashSignerChanged(uint32 indexed lane, address signer);
    event MinimumStakeChanged(Role indexed role, uint128 amount);
    event SlashedFundsPaid(address indexed treasury, uint128 amount);

    error UnknownProvider(uint32 provider);
    error NotStaker();
    error NotOperator();
    error NotAuthorised();
    error ZeroAddress();
    error StakerIsOperator();
    error AmountZero();
    error AmountTooLarge(uint128 available);
    error TooManyTickets();
    error UnknownTicket();
    error StillLocked(uint64 unlockAt);
    error AllFrozen();
    error Paused();
    error BadSignature();
    error Expired();
    error IncidentKnown(uint256 id);
    error UnknownSlash();
    error WrongState();
    error TooLate(uint64 deadline);
    error TooEarly(uint64 deadline);
    error OutOfBounds();
    error FreezeCapReached(uint64 retryAt);
    error UnsupportedToken();
    error BelowMinimumDelegation(uint128 minimum);
    error ClaimOpen(uint64 due);
    error NotSettlement();
    /// @notice The token counts fewer than 9 decimals and this amount is no whole number of its units.
    error NotWholeUnits(uint128 unit);

    // ---- providers
    /// @notice The caller becomes the staker. The provider can be paid after the cooling time.
    function register(address operator, address beneficiary) external returns (uint32 provider);
    function setOperator(uint32 provider, address operator) external;
    function setBeneficiary(uint32 provider, address beneficiary) external;
    /// @notice A rise takes effect after the unbonding time, so that delegators can leave before it.
    function setCommission(uint32 provider, uint16 bps) external;
    function setInventory(uint32 provider, bytes32 hash) external;
    /// @notice Voids every agent certificate of the provider (staker or operator).
    function revokeSessions(uint32 provider) external;
    function providerOf(uint32 provider) external view returns (Provider memory);
    function providerCount() external view returns (uint32);
    function sessionEpoch(uint32 provider) external view returns (uint64);

    // ---- stake
    function stake(uint32 provider, uint128 amount) external;
    function delegate(uint32 provider, uint128 amount) external returns (uint128 shares);
    /// @notice Of the staker's own stake.
    function requestUnbond(uint32 provider, uint128 amount) external returns (uint32 ticket);
    function requestUndelegate(uint32 provider, uint128 shares) external returns (uint32 ticket);
    /// @notice Pays min(what the ticket is worth, what is not frozen) once it is unlocked; the rest stays in the ticket.
    /// What is frozen rests on stakes in the order in which a slash takes them, so delegators' tickets are held back only by
    /// what the provider's own stake does not cover.
    function withdraw(uint32 provider, uint32 ticket) external returns (uint128 amount);
    function rebond(uint32 provider, uint32 ticket) external returns (uint128 amount);
    function ticketsOf(uint32 provider, address account) external view returns (Ticket[] memory);
    function delegationOf(uint32 provider, address delegator) external view returns (uint128 shares, uint128 amount);
    /// @notice Own stake plus delegated stake up to the parameter's share of the own one, less what is frozen.
    function effectiveStake(uint32 provider) external view returns (uint128);
    /// @notice Whether the effective stake is strictly above the role's minimum.
    function isBonded(uint32 provider, Role role) external view returns (bool);
    function minimumStake(Role role) external view returns (uint128);
    function unbondingTime() external view returns (uint64);

    // ---- rewards of delegators
    /// @notice Settlement only: divides `amount` by the shares of now; returns what delegators get of it.
    function divideRewards(uint32 provider, uint64 amount) external returns (uint64 toDelegators);
    function rewardsOf(uint32 provider, address delegator) external view returns (uint128);
    /// @notice Opens a claim of all that the caller has earned; one at a time.
    function requestRewards(uint32 provider) external;
    /// @notice Pays an open claim that is due to its delegator; anyone may call it.
    function claimRewards(uint32 provider, address delegator) external returns (uint128);

    // ---- slashes
    /// @notice Anyone may send it; authority is the signature of the lane's slash signer over
    /// Slash(uint32 lane,bytes32 incidentId,uint32 provider,uint128 amount,bytes32 evidence,uint64 validUntil).
    function proposeSlash(
        uint32 lane,
        bytes32 incidentId,
        uint32 provider,
        uint128 amount,
        bytes32 evidence,
        uint64 validUntil,
        bytes32 r,
        bytes32 vs
    ) external returns (uint256 id);
    /// @notice Staker or operator, until disputeUntil.
    function disputeSlash(uint256 id, bytes32 counterEvidence) external;
    /// @notice Arbiter, until resolveUntil; 0 cancels, more than is frozen counts as all that is frozen.
    function resolveSlash(uint256 id, uint128 upheld) external;
    /// @notice Anyone: undisputed and past disputeUntil, or upheld: executes; disputed and undecided past resolveUntil: cancels.
    function finalizeSlash(uint256 id) external;
    /// @notice Guardian: cancels a slash that is not executed.
    function cancelSlash(uint256 id) external;
    function slashOf(uint256 id) external view returns (Slash memory);
    /// @notice The slash of this lane's incident; 0 if none.
    function slashIdOf(uint32 lane, bytes32 incidentId) external view returns (uint256);
    function slashSigner(uint32 lane) external view returns (address);
    /// @notice Sends what slashes have taken to the treasury; anyone may call it.
    function paySlashedFunds() external returns (uint128 amount);
    function token() external view returns (address);
}
