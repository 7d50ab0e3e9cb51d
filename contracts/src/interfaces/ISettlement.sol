// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Settlement: pays what lanes report, exactly once.
/// @notice All amounts are in nano-tokens (1e-9 of a whole token), whatever the token's decimals. With a token of fewer
/// than 9 decimals only multiples of `granularity()` can leave or enter; what is below stays in the account.
/// A lane is one cluster on this chain. Its payers have account numbers of their own, counted from 1; account 0 is the
/// lane's reward account, from which emissions are paid. A lane's signer can debit accounts of its lane only.
interface ISettlement {
    /// @notice What a deployment fixes or begins with.
    /// @param token a standard ERC-20 with `decimals()`; fixed
    /// @param vault the StakeVault; fixed
    /// @param admin holds DEFAULT_ADMIN_ROLE: a timelock
    /// @param adminDelay seconds that a change of the admin takes
    /// @param laneAdmin holds LANE_ADMIN_ROLE: a timelock, or who sets lanes up
    /// @param guardian holds GUARDIAN_ROLE; zero: nobody yet
    /// @param treasury gets fees
    /// @param feeBps of each credit, in 1/10,000
    /// @param claimDelay seconds between the request of a claim and its payment
    struct Setup {
        address token;
        address vault;
        address admin;
        uint48 adminDelay;
        address laneAdmin;
        address guardian;
        address treasury;
        uint16 feeBps;
        uint64 claimDelay;
    }

    /// @param signer whose EIP-712 signature authorises batches
    /// @param seq number of the last batch settled; 0 if none
    /// @param state 0 unknown, 1 active, 2 closed
    /// @param chainHash head of the chain of batches; zero if none
    struct Lane {
        address signer;
        uint48 seq;
        uint8 state;
        bytes32 chainHash;
    }

    struct Thaw {
        uint64 amount;
        uint64 due;
    }

    struct Claim {
        uint64 amount;
        uint64 due;
    }

    /// @notice One link of a lane's chain of batches.
    struct Link {
        uint64 seq;
        bytes32 usageRoot;
        bytes32 dataHash;
    }

    /// @notice Why an entry of a batch was left out; the rest of the batch is paid. Only `Duplicate` is final.
    enum Why {
        None,
        UnknownProvider,
        UnknownPayer,
        Insufficient,
        Duplicate,
        ProviderCooling
    }

    /// @notice What the guardian can pause, each by itself. Nothing else can be paused: deposits, thaws, divisions go on.
    enum Path {
        Settle,
        Claim,
        Withdraw
    }

    event LaneOpened(uint32 indexed lane, address signer);
    event LaneSignerChanged(uint32 indexed lane, address signer);
    event LaneClosed(uint32 indexed lane);
    event LaneReopened(uint32 indexed lane, address signer);
    event PayerRegistered(uint32 indexed lane, uint32 indexed payer, address indexed owner);
    event Deposited(uint32 indexed lane, uint32 indexed payer, address from, uint64 amount);
    event ThawRequested(uint32 indexed lane, uint32 indexed payer, uint64 amount, uint64 due);
    event Withdrawn(uint32 indexed lane, uint32 indexed payer, uint64 amount);
    event ProviderActivated(uint32 indexed provider);
    /// @notice summary = total << 64 | jobs paid << 32 | jobs skipped. amounts: one big-endian uint64 a group in the order
    /// of the data: what was paid, or 1 << 63 if the group was left out.
    event BatchSettled(
        uint32 indexed lane, uint64 indexed seq, bytes32 chainHash, bytes32 usageRoot, uint256 summary, bytes amounts
    );
    event GroupSkipped(uint32 indexed lane, uint64 indexed seq, uint32 provider, uint32 payer, Why why);
    /// @notice One a bitmap word with refused jobs: job number = wordNo * 224 + bit.
    event JobsSkipped(uint32 indexed lane, uint64 indexed seq, uint32 wordNo, uint224 bits, Why why);
    /// @notice What the lane's signer states in a batch, in the order of the data, after its BatchSettled. The contract gives
    /// no meaning to kind, subject, number and content.
    event Stated(
        uint32 indexed lane, uint8 indexed kind, bytes32 indexed subject, uint64 seq, uint32 number, bytes32 content
    );
    /// @notice A provider's credit was divided: fee to the treasury, a part to delegators, the rest to the provider.
    event Divided(uint32 indexed provider, uint64 credit, uint64 fee, uint64 toDelegators, uint64 toProvider);
    event ClaimRequested(uint32 indexed provider, uint64 amount, uint64 due);
    event Claimed(uint32 indexed provider, address indexed beneficiary, uint64 amount);
    event FeesCollected(address indexed treasury, uint64 amount);
    event PathPaused(Path indexed path);
    event PathUnpaused(Path indexed path);
    event FeeChanged(uint16 bps);
    event ClaimDelayChanged(uint64 delay);
    event TreasuryChanged(address treasury);

    error BadSeq(uint64 want);
    error BadPrev(bytes32 want);
    error BadSignature();
    error Expired();
    error LaneNotActive(uint32 lane);
    error LaneKnown(uint32 lane);
    error BadEncoding();
    error Paused();
    error NotOwner();
    error UnknownPayer(uint32 lane, uint32 payer);
    error UnknownProvider(uint32 provider);
    error ProviderIsCooling(uint32 provider, uint64 until);
    error NothingToDo();
    error NotDue(uint64 due);
    error ClaimOpen(uint64 due);
    /// @notice The token moved another amount than asked: tokens with a fee on transfer are refused.
    error UnsupportedToken();
    /// @notice The amount is not a multiple of the token's smallest unit.
    error BelowGranularity(uint64 granularity);
    /// @notice The contract would hold more than 2^63 - 1 nano-tokens.
    error Overflow();
    error OutOfBounds();
    error ZeroAddress();
    /// @notice The vault gave delegators more than there was.
    error BadDivision(uint64 share, uint64 toDelegators);

    // ---- what a lane's operator uses
    /// @notice Settles a batch. Anyone may send it; authority is the signature of the lane's signer over
    /// Batch(uint32 lane,uint64 seq,bytes32 prev,bytes32 usageRoot,bytes32 dataHash,uint64 validUntil).
    function settle(
        uint32 lane,
        uint64 seq,
        bytes32 prev,
        bytes32 usageRoot,
        uint64 validUntil,
        bytes32 r,
        bytes32 vs,
        bytes calldata data
    ) external;
    function head(uint32 lane) external view returns (uint64 seq, bytes32 chainHash);
    function laneOf(uint32 lane) external view returns (Lane memory);
    function isPaid(uint32 lane, uint64 jobNo) external view returns (bool);
    function settlePaused() external view returns (bool);
    function receiptInChain(uint32 lane, bytes32 prev, Link[] calldata links, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool);

    // ---- payers
    function registerPayer(uint32 lane) external returns (uint32 payer);
    /// @notice Anyone may deposit, to account 0 (rewards) too.
    function deposit(uint32 lane, uint32 payer, uint64 amount) external;
    /// @notice A deposit with an EIP-2612 permit of the caller instead of an approval before it.
    function depositWithPermit(
        uint32 lane,
        uint32 payer,
        uint64 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;
    /// @notice Asks for `amount` back, due after THAW_TIME; until it is withdrawn the lane can still spend it. Replaces an
    /// earlier request; 0 takes it back. Owner only.
    function thaw(uint32 lane, uint32 payer, uint64 amount) external;
    /// @notice Pays a due request, or what is left in the account if that is less, to the owner. Owner only.
    function withdraw(uint32 lane, uint32 payer) external returns (uint64 amount);
    /// @notice Accounts of the lane without account 0: the highest number given out.
    function payerCount(uint32 lane) external view returns (uint32);
    function payerOwner(uint32 lane, uint32 payer) external view returns (address);
    function balanceOf(uint32 lane, uint32 payer) external view returns (uint64);
    function thawOf(uint32 lane, uint32 payer) external view returns (Thaw memory);

    // ---- providers
    /// @notice Lets a provider be paid once its cooling in the vault is over. Anyone may call it.
    function activateProvider(uint32 provider) external;
    function isActive(uint32 provider) external view returns (bool);
    /// @notice Credit that is not divided yet.
    function creditOf(uint32 provider) external view returns (uint64);
    /// @notice The provider's own part that is divided and not in a claim yet.
    function earnedOf(uint32 provider) external view returns (uint64);
    function claimOf(uint32 provider) external view returns (Claim memory);
    /// @notice Divides the credit by the shares of now. The vault calls it before shares change, so that a late delegator
    /// gets nothing of what was credited before. Anyone may call it.
    function divide(uint32 provider) external;
    /// @notice Divides, then opens a claim of all that is earned; anyone may call it.
    function requestClaim(uint32 provider) external;
    /// @notice Pays an open claim that is due to the provider's beneficiary; anyone may call it.
    function claim(uint32 provider) external returns (uint64 amount);
    /// @notice Pays the fees of all divisions so far to the treasury; anyone may call it.
    function collectFees() external returns (uint64 amount);
    function feesDue() external view returns (uint64);
    /// @notice Everything the contract owes: balances, credits, earnings, open claims, fees.
    function held() external view returns (uint64);
    function feeBps() external view returns (uint16);
    function claimDelay() external view returns (uint64);
    function token() external view returns (address);
    function vault() external view returns (address);
    /// @notice Nano-tokens in the smallest amount that the token can move; 1 if it has 9 decimals or more.
    function granularity() external view returns (uint64);
    function treasury() external view returns (address);
    function claimPaused() external view returns (bool);
    function withdrawPaused() external view returns (bool);

    // ---- roles
    /// @notice LANE_ADMIN. `rewardsOwner` owns account 0 of the lane and can thaw it; zero: nobody can.
    function openLane(uint32 lane, address signer, address rewardsOwner) external;
    /// @notice LANE_ADMIN.
    function setLaneSigner(uint32 lane, address signer) external;
    /// @notice GUARDIAN or LANE_ADMIN. Nothing is settled on the lane any more; payers can still withdraw.
    function closeLane(uint32 lane) external;
    /// @notice LANE_ADMIN. The chain of batches goes on where it stopped.
    function reopenLane(uint32 lane, address signer) external;
    /// @notice GUARDIAN.
    function pause(Path path) external;
    /// @notice GUARDIAN or admin.
    function unpause(Path path) external;
    /// @notice Admin; at most MAX_FEE_BPS. It holds for credits that are not divided yet; anyone can divide before.
    function setFeeBps(uint16 bps) external;
    /// @notice Admin; at most MAX_CLAIM_DELAY. Open claims keep their due time.
    function setClaimDelay(uint64 delay) external;
    /// @notice Admin.
    function setTreasury(address treasury) external;
}
