//! What stories call on the contracts, and what they sign, written down once more: if the contracts' public face changes,
//! the stories notice.

#![allow(missing_docs, clippy::too_many_arguments)]

use alloy::sol;

sol! {
    #[derive(Debug, PartialEq, Eq)]
    interface Token {
        function balanceOf(address account) external view returns (uint256);
        function decimals() external view returns (uint8);
        function transfer(address to, uint256 amount) external returns (bool);
        function approve(address spender, uint256 amount) external returns (bool);
    }

    #[derive(Debug, PartialEq, Eq)]
    interface Settlement {
        enum Why { None, UnknownProvider, UnknownPayer, Insufficient, Duplicate, ProviderCooling }

        event BatchSettled(uint32 indexed lane, uint64 indexed seq, bytes32 chainHash, bytes32 usageRoot, uint256 summary, bytes amounts);
        event GroupSkipped(uint32 indexed lane, uint64 indexed seq, uint32 provider, uint32 payer, Why why);
        event JobsSkipped(uint32 indexed lane, uint64 indexed seq, uint32 wordNo, uint224 bits, Why why);
        event PayerRegistered(uint32 indexed lane, uint32 indexed payer, address indexed owner);

        error NotOwner();
        error UnknownPayer(uint32 lane, uint32 payer);
        error UnknownProvider(uint32 provider);
        error ProviderIsCooling(uint32 provider, uint64 until);
        error NothingToDo();
        error NotDue(uint64 due);
        error ClaimOpen(uint64 due);
        error UnsupportedToken();

        function head(uint32 lane) external view returns (uint64 seq, bytes32 chainHash);
        function isPaid(uint32 lane, uint64 jobNo) external view returns (bool);
        function openLane(uint32 lane, address signer, address rewardsOwner) external;
        function registerPayer(uint32 lane) external returns (uint32 payer);
        function deposit(uint32 lane, uint32 payer, uint64 amount) external;
        function thaw(uint32 lane, uint32 payer, uint64 amount) external;
        function withdraw(uint32 lane, uint32 payer) external returns (uint64 amount);
        function balanceOf(uint32 lane, uint32 payer) external view returns (uint64);
        function payerOwner(uint32 lane, uint32 payer) external view returns (address);
        function activateProvider(uint32 provider) external;
        function isActive(uint32 provider) external view returns (bool);
        function creditOf(uint32 provider) external view returns (uint64);
        function earnedOf(uint32 provider) external view returns (uint64);
        function divide(uint32 provider) external;
        function requestClaim(uint32 provider) external;
        function claim(uint32 provider) external returns (uint64 amount);
        function feeBps() external view returns (uint16);
        function claimDelay() external view returns (uint64);
    }

    #[derive(Debug, PartialEq, Eq)]
    interface StakeVault {
        enum Role { Miner, Coordinator }
        enum SlashState { None, Proposed, Disputed, Upheld, Executed, Cancelled }
        enum CancelWhy { None, NotUpheld, NotDecided, Guardian, NothingAtStake }

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

        struct Ticket { uint32 id; uint128 amount; uint64 unlockAt; }

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

        event SlashExecuted(uint256 indexed id, uint32 indexed provider, uint128 fromStake, uint128 fromUnbonding);

        error UnknownProvider(uint32 provider);
        error NotStaker();
        error NotOperator();
        error NotAuthorised();
        error ZeroAddress();
        error StakerIsOperator();
        error UnknownTicket();
        error StillLocked(uint64 unlockAt);
        error AllFrozen();
        error TooLate(uint64 deadline);
        error TooEarly(uint64 deadline);
        error WrongState();
        error UnsupportedToken();

        function register(address operator, address beneficiary) external returns (uint32 provider);
        function setCommission(uint32 provider, uint16 bps) external;
        function revokeSessions(uint32 provider) external;
        function providerOf(uint32 provider) external view returns (Provider memory);
        function providerCount() external view returns (uint32);
        function sessionEpoch(uint32 provider) external view returns (uint64);
        function stake(uint32 provider, uint128 amount) external;
        function delegate(uint32 provider, uint128 amount) external returns (uint128 shares);
        function requestUnbond(uint32 provider, uint128 amount) external returns (uint32 ticket);
        function withdraw(uint32 provider, uint32 ticket) external returns (uint128 amount);
        function rebond(uint32 provider, uint32 ticket) external returns (uint128 amount);
        function ticketsOf(uint32 provider, address account) external view returns (Ticket[] memory);
        function delegationOf(uint32 provider, address delegator) external view returns (uint128 shares, uint128 amount);
        function effectiveStake(uint32 provider) external view returns (uint128);
        function isBonded(uint32 provider, Role role) external view returns (bool);
        function minimumStake(Role role) external view returns (uint128);
        function unbondingTime() external view returns (uint64);
        function rewardsOf(uint32 provider, address delegator) external view returns (uint128);
        function requestRewards(uint32 provider) external;
        function claimRewards(uint32 provider, address delegator) external returns (uint128);
        function disputeSlash(uint256 id, bytes32 counterEvidence) external;
        function resolveSlash(uint256 id, uint128 upheld) external;
        function finalizeSlash(uint256 id) external;
        function slashOf(uint256 id) external view returns (Slash memory);
        function slashIdOf(uint32 lane, bytes32 incidentId) external view returns (uint256);
    }

    /// A payer's consent to pay for the jobs of a namespace.
    struct PayerConsent {
        uint32 lane;
        uint32 payer;
        string namespaceUid;
        uint64 dailyCap;
        uint64 expires;
    }

    /// A provider's word that a key is its agent's.
    struct AgentKey {
        uint32 provider;
        string node;
        address key;
        uint64 epoch;
        uint64 notAfter;
    }
}
