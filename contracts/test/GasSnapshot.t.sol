// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {BatchFormat, Content, Group, Job, Statement} from "./support/BatchFormat.sol";
import {VaultFixture} from "./support/VaultFixture.sol";

/// @dev What the calls that people and the operator send cost, each as a transaction of its own: 21,000 gas and its data are
/// in it, the floor of EIP-7623 is not (`make gas` measures that, from receipts). The figures lie in gas-snapshot/.
/// forge-config: default.isolate = true
contract GasSnapshotTest is VaultFixture {
    uint32 private payer;

    function setUp() public {
        _deploy(18);
        payer = _earning();
        _stake(1_000 * TOKEN);
        _delegate(DELEGATOR, 500 * TOKEN);
    }

    function _settlementGas(string memory what) private {
        vm.snapshotGasLastCall("Settlement", what);
    }

    function _vaultGas(string memory what) private {
        vm.snapshotGasLastCall("StakeVault", what);
    }

    // ---- settlement

    /// @dev `groups` pairs of neighbouring accounts, jobs dealt out among them in turn.
    function _batch(uint256 groups, uint64 firstJob, uint64 jobs) private view returns (bytes memory) {
        Content memory c;
        c.width = 4;
        c.groupBits = 5;
        c.groups = new Group[](groups);
        for (uint32 i = 0; i < groups; i++) {
            c.groups[i] = Group(payer + i, provider + i, 720_000 * 1e6);
        }
        c.jobs = new Job[](jobs);
        for (uint64 i = 0; i < jobs; i++) {
            c.jobs[i] = Job(firstJob + i, i % groups, 3_600_000);
        }
        return BatchFormat.encode(c);
    }

    function _settleAndMeasure(bytes memory data, string memory what) private {
        uint64 next = seq + 1;
        (bytes32 r, bytes32 vs) = _sign(SIGNER_KEY, _digest(LANE, next, chain, "root", data, type(uint64).max));
        settlement.settle(LANE, next, chain, "root", type(uint64).max, r, vs, data);
        _settlementGas(what);
        chain = keccak256(abi.encode(chain, LANE, next, bytes32("root"), keccak256(data)));
        seq = next;
    }

    function test_gasOfBatchesOfOneGroup() public {
        _settleAndMeasure(_batch(1, 0, 1), "settle 1 job of 1 group, the first");
        _settleAndMeasure(_batch(1, 1, 1), "settle 1 job of 1 group");
        _settleAndMeasure(_batch(1, 2, 20), "settle 20 jobs of 1 group");
        _settleAndMeasure(_batch(1, 0, 20), "settle 20 jobs that are paid already");
    }

    function test_gasOfStatements() public {
        _settleAndMeasure(_batch(1, 0, 1), "settle 1 job of 1 group, the first");
        Content memory c = BatchFormat.decode(_batch(1, 1, 1));
        c.statements = new Statement[](10);
        for (uint256 i = 0; i < 10; i++) {
            c.statements[i] = Statement(1, 8, keccak256(abi.encode(i)), keccak256(abi.encode("content", i)));
        }
        _settleAndMeasure(BatchFormat.encode(c), "settle 1 job of 1 group and 10 statements");
        c.groups = new Group[](0);
        c.jobs = new Job[](0);
        _settleAndMeasure(BatchFormat.encode(c), "settle 10 statements alone");
    }

    function test_gasOfBatchesOfTwentyGroups() public {
        for (uint256 i = 1; i < 20; i++) {
            _register();
            _payer(uint64(100_000 * TOKEN));
        }
        _later(1 days);
        for (uint32 i = 2; i <= 20; i++) {
            settlement.activateProvider(i);
        }
        _settleAndMeasure(_batch(20, 0, 20), "settle 20 jobs of 20 groups, the first");
        _settleAndMeasure(_batch(20, 224, 500), "settle 500 jobs of 20 groups");
        provider = 1_000; // and those after it: nobody
        _settleAndMeasure(_batch(20, 1_000, 500), "settle 500 jobs of 20 groups of unknown providers");
    }

    function test_gasOfAPayersAccount() public {
        settlement.registerPayer(LANE);
        _settlementGas("registerPayer");
        settlement.deposit(LANE, payer, 1e9);
        _settlementGas("deposit");
        settlement.thaw(LANE, payer, 1e9);
        _settlementGas("thaw");
        _later(7 days);
        settlement.withdraw(LANE, payer);
        _settlementGas("withdraw");
    }

    function test_gasOfAProvidersEarnings() public {
        _earn(payer, 1e12);
        settlement.divide(provider);
        _settlementGas("divide");
        _earn(payer, 1e12);
        settlement.requestClaim(provider);
        _settlementGas("requestClaim");
        _later(1 days);
        settlement.claim(provider);
        _settlementGas("claim");
        settlement.collectFees();
        _settlementGas("collectFees");
    }

    // ---- vault

    function test_gasOfAProvider() public {
        vm.prank(STAKER);
        vault.register(OPERATOR, BENEFICIARY);
        _vaultGas("register");
        vm.prank(OPERATOR);
        vault.setInventory(provider, "devices");
        _vaultGas("setInventory");
        vm.prank(OPERATOR);
        vault.revokeSessions(provider);
        _vaultGas("revokeSessions");
    }

    function test_gasOfStake() public {
        vm.prank(STAKER);
        vault.stake(provider, TOKEN);
        _vaultGas("stake");
        vm.prank(STAKER);
        vault.requestUnbond(provider, TOKEN);
        _vaultGas("requestUnbond");
        vm.prank(STAKER);
        vault.rebond(provider, 1);
        _vaultGas("rebond");
        vm.prank(STAKER);
        vault.requestUnbond(provider, TOKEN);
        _later(UNBONDING);
        vm.prank(STAKER);
        vault.withdraw(provider, 2);
        _vaultGas("withdraw");
    }

    function test_gasOfADelegator() public {
        vm.prank(DELEGATOR);
        vault.delegate(provider, TOKEN);
        _vaultGas("delegate");
        vm.prank(DELEGATOR);
        vault.requestUndelegate(provider, TOKEN);
        _vaultGas("requestUndelegate");
        _earn(payer, 1e12);
        vm.prank(DELEGATOR);
        vault.requestRewards(provider);
        _vaultGas("requestRewards");
        _later(1 days);
        vault.claimRewards(provider, DELEGATOR);
        _vaultGas("claimRewards");
    }

    function test_gasOfASlash() public {
        (bytes32 r, bytes32 vs) = _sign(SLASH_KEY, _slashDigest(LANE, "i", provider, TOKEN, "evidence", _now()));
        vault.proposeSlash(LANE, "i", provider, TOKEN, "evidence", _now(), r, vs);
        _vaultGas("proposeSlash");
        _later(DISPUTE + 1);
        vault.finalizeSlash(1);
        _vaultGas("finalizeSlash, executed");
        _proposeAny("j", TOKEN);
        vm.prank(OPERATOR);
        vault.disputeSlash(2, "counter");
        _vaultGas("disputeSlash");
        vm.prank(ARBITER);
        vault.resolveSlash(2, TOKEN);
        _vaultGas("resolveSlash, upheld");
        vault.paySlashedFunds();
        _vaultGas("paySlashedFunds");
    }
}
