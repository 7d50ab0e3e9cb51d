#!/usr/bin/env python3
"""Tries the chart's admission policies and roles on a real cluster, case by case, and prints what was answered.

    policies.py [NAMESPACE]      NAMESPACE of the release (default gridstake-system)

Needs kubectl, a kubeconfig of an administrator in KUBECONFIG, and both charts installed; the agents may run or not, the
operator must not (`kubectl scale deployment/gridstake-operator --replicas=0`): it would end the pod and seal the record. It
makes two Nodes without a kubelet, a pod of the agents' ServiceAccount on each, a tenant's namespace and a few objects, and
removes them all. The table that it prints is the one in POLICIES.md. Exit status 1 if any answer is not the expected one.
"""

import base64
import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

RELEASE = sys.argv[1] if len(sys.argv) > 1 else "gridstake-system"
OPERATOR = f"system:serviceaccount:{RELEASE}:gridstake-operator"
AGENT = f"system:serviceaccount:{RELEASE}:gridstake-device-agent"
COLLECTOR = "system:serviceaccount:kube-system:generic-garbage-collector"
TENANT = "gridstake-policies-tenant"
failures = 0
scratch = tempfile.TemporaryDirectory()


def kubectl(*arguments, stdin=None, check=True):
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done


def without_credentials():
    """Gives the path of a kubeconfig that names the cluster only: a client certificate would win over a token."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--output=json").stdout)
    config["users"] = [{"name": user["name"], "user": {}} for user in config["users"]]
    path = os.path.join(scratch.name, "kubeconfig")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    return path


def token(pod=None):
    bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
    text = kubectl("create", "token", "gridstake-device-agent", f"--namespace={RELEASE}", *bound).stdout.strip()
    return ["--kubeconfig", bare, "--token", text]


def send_patch(url, body, headers, context=None):
    request = urllib.request.Request(url, method="PATCH", data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, context=context):
            return subprocess.CompletedProcess(url, 0)
    except urllib.error.HTTPError as error:
        return subprocess.CompletedProcess(url, 1, stderr=json.load(error)["message"])


def patch_as_agent(path, body, kind="application/merge-patch+json"):
    """Sends a patch as the agent does. kubectl would read the object first, for which an agent has no right."""
    cluster = json.loads(kubectl("config", "view", "--raw", "--minify", "--output=json").stdout)["clusters"][0]["cluster"]
    authority = cluster.get("certificate-authority-data")
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"), cadata=base64.b64decode(authority).decode() if authority else None)
    headers = {"Authorization": f"Bearer {own[-1]}", "Content-Type": kind}
    return send_patch(cluster["server"] + path, body, headers, context)


def agent_status(resource, name, body, namespace=None, apply=False):
    """The agent writes a status: a merge patch, or as it does itself, a forced server-side apply."""
    path = f"/apis/gridstake.dev/v1alpha1/{f'namespaces/{namespace}/' if namespace else ''}{resource}/{name}/status"
    if not apply:
        return patch_as_agent(path, {"status": body})
    whole = {**gpu_node(name), "status": body}
    del whole["spec"]
    return patch_as_agent(f"{path}?fieldManager=gridstake-device-agent&force=true", whole, "application/apply-patch+yaml")


def answer(done):
    """Gives the API server's words without kubectl's and the policy machinery's own."""
    if done.returncode == 0:
        return "allowed"
    text = " ".join(done.stderr.split())
    for mark in ("denied request: ", "is forbidden: ", "is invalid: "):
        if mark in text:
            kind = {"denied request: ": "policy", "is forbidden: ": "RBAC", "is invalid: ": "schema"}[mark]
            return f"{kind}: {text.split(mark, 1)[1]}"
    return text


def case(who, what, expected, done):
    """expected: 'allowed', or how the answer begins: 'policy: …', 'RBAC'."""
    global failures
    got = answer(done)
    right = got.startswith(expected) if expected != "allowed" else got == "allowed"
    if not right:
        failures += 1
    print(f"| {who} | {what} | {got.replace('|', chr(92) + '|')} |{'' if right else f' <-- expected {expected}'}", flush=True)


def patch(who, resource, name, body, *more):
    """A merge patch, as the user whose flags are given."""
    return kubectl(*who, "patch", resource, name, "--type=merge", f"--patch={json.dumps(body)}", *more, check=False)


def create(who, manifest, *more):
    return kubectl(*who, "create", "--filename=-", "--validate=false", *more, stdin=json.dumps(manifest), check=False)


def gpu_node(name, **more):
    return {"apiVersion": "gridstake.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name, **more.pop("metadata", {})},
            "spec": more}


def pod(name, labels=None, **metadata):
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": TENANT, "labels": labels or {}, **metadata},
            "spec": {"restartPolicy": "Never", "schedulingGates": [{"name": "gridstake.dev/placement"}],
                     "containers": [{"name": "main", "image": "localhost/busybox:1", "command": ["/bin/true"]}]}}


def lease(name, holder):
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": RELEASE},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30}}


def status(resource, name, body, who, namespace=None):
    """A merge patch of a status by the administrator or whom it impersonates, without reading the object first."""
    path = f"/apis/gridstake.dev/v1alpha1/{f'namespaces/{namespace}/' if namespace else ''}{resource}/{name}/status"
    user = {"Impersonate-User": who[0].removeprefix("--as=")} if who else {}
    return send_patch(proxy_address + path, {"status": body}, {"Content-Type": "application/merge-patch+json", **user})


def agent_cases():
    me, other = (f"agent on {nodes[0]}", nodes[1])
    case("agent, token bound to no pod", f"create GpuNode {nodes[0]}", "policy: this device agent's token names no node",
         create(token(), gpu_node(nodes[0])))
    case(me, f"create GpuNode {other}", "policy: the device agent on node", create(own, gpu_node(other)))
    case(me, "create GpuNode of its own with a price", "policy: a device agent creates its GpuNode with an empty spec",
         create(own, gpu_node(nodes[0], pricing={"perGpuSecond": "1"})))
    case(me, "… with mode Drained", "policy: a device agent creates its GpuNode with an empty spec",
         create(own, gpu_node(nodes[0], mode="Drained")))
    case(me, "… with a finalizer", "policy: a device agent creates its GpuNode without metadata.finalizers",
         create(own, gpu_node(nodes[0], metadata={"finalizers": ["example.com/keep"]})))
    case(me, "create GpuNode of its own, bare", "allowed", create(own, gpu_node(nodes[0])))
    create([], gpu_node(other))
    case(me, "change the spec of its own GpuNode", "RBAC", patch(own, "gpunode", nodes[0], {"spec": {"mode": "Drained"}}))
    case(me, "delete its own GpuNode", "RBAC", kubectl(*own, "delete", "gpunode", nodes[0], check=False))
    driver = {"driver": {"version": "580.95.05"}}
    case(me, "status.driver of its own GpuNode", "allowed", agent_status("gpunodes", nodes[0], driver))
    case(me, "… by server-side apply", "allowed", agent_status("gpunodes", nodes[0], driver, apply=True))
    case(me, f"status.driver of {other}", "policy: the device agent on node", agent_status("gpunodes", other, driver))
    condition = {"type": "Bonded", "status": "True", "reason": "Bonded", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    case(me, "status.conditions: set Bonded", "policy: a device agent may write only status.devices",
         agent_status("gpunodes", nodes[0], {"conditions": [condition]}))
    case(me, "status.capacity and status.free", "policy: a device agent may write only status.devices",
         agent_status("gpunodes", nodes[0], {"capacity": 8, "free": 8}))
    status("gpunodes", nodes[0], {"conditions": [condition], "free": 8}, operator)
    case(me, "status.free: change what the operator wrote", "policy: a device agent may write only status.devices",
         agent_status("gpunodes", nodes[0], {"free": 7}))
    case(me, "status.conditions: remove what the operator wrote", "policy: a device agent may write only status.devices",
         agent_status("gpunodes", nodes[0], {"conditions": None}))
    case(me, "status.conditions by forced server-side apply", "policy: a device agent may write only status.devices",
         agent_status("gpunodes", nodes[0], {**driver, "conditions": [{**condition, "status": "False"}]}, apply=True))
    case(me, "status.driver: remove its own", "allowed", agent_status("gpunodes", nodes[0], {"driver": None}))
    case(me, f"create Lease agent-{nodes[0]}", "allowed", create(own, lease(f"agent-{nodes[0]}", nodes[0]), "--dry-run=server"))
    case(me, f"… held by {other}", "policy: spec.holderIdentity", create(own, lease(f"agent-{nodes[0]}", other), "--dry-run=server"))
    case(me, f"create Lease agent-{other}", "policy: the device agent on node", create(own, lease(f"agent-{other}", other), "--dry-run=server"))
    create([], lease("policies", "nobody"))
    case(me, "change another Lease, such as the operator's", "policy: the device agent on node",
         patch_as_agent(f"/apis/coordination.k8s.io/v1/namespaces/{RELEASE}/leases/policies", {"spec": {"holderIdentity": nodes[0]}}))
    case(me, "read Secrets of its namespace", "RBAC", kubectl(*own, "get", "secrets", f"--namespace={RELEASE}", check=False))


def ledger_cases():
    in_release = f"--namespace={RELEASE}"
    me = f"agent on {nodes[0]}"
    for name, node in (("policies-mine", nodes[0]), ("policies-other", nodes[1])):
        done = create(operator, record(name, node))
        case("operator", f"create UsageRecord of {node}", "allowed", done)
    case(me, "status.evidence of its node's UsageRecord", "allowed",
         agent_status("usagerecords", "policies-mine", {"evidence": EVIDENCE}, RELEASE))
    case(me, "status.evidence of another node's UsageRecord", "policy: the device agent on node",
         agent_status("usagerecords", "policies-other", {"evidence": EVIDENCE}, RELEASE))
    case(me, "status.sealed: set it", "policy: a device agent may write only status.evidence",
         agent_status("usagerecords", "policies-mine", {"sealed": SEALED}, RELEASE))
    case("operator", "status.sealed: set it", "allowed", status("usagerecords", "policies-mine", {"sealed": SEALED}, operator, RELEASE))
    case(me, "status.sealed: remove it", "schema: ", agent_status("usagerecords", "policies-mine", {"sealed": None}, RELEASE))
    case("operator", "status.conditions", "allowed",
         status("usagerecords", "policies-mine", {"conditions": [SEALED_CONDITION]}, operator, RELEASE))
    case(me, "status.conditions: remove them", "policy: a device agent may write only status.evidence",
         agent_status("usagerecords", "policies-mine", {"conditions": None}, RELEASE))
    case(me, "create a UsageRecord", "RBAC", create(own, record("policies-third", nodes[0])))
    for who, flags in (("cluster administrator", []), ("tenant (edit)", tenant)):
        refused = "policy: usagerecords are the ledger" if not flags else "RBAC"
        case(who, "create a UsageRecord", refused, create(flags, record("policies-third", nodes[0])))
        case(who, "delete a UsageRecord", refused, kubectl(*flags, "delete", "usagerecord", "policies-other", in_release, check=False))
        case(who, "status.sealed of a UsageRecord", "policy: the status" if not flags else "RBAC",
             status("usagerecords", "policies-other", {"sealed": SEALED}, flags, RELEASE))
    case("namespace administrator there", "create a UsageRecord", "RBAC",
         create(["--as=gridstake-policies-admin"], record("policies-third", nodes[0])))
    case("garbage collector", "delete a UsageRecord", "allowed",
         kubectl(f"--as={COLLECTOR}", "delete", "usagerecord", "policies-other", in_release, check=False))
    case("operator", "delete a UsageRecord", "allowed", kubectl(*operator, "delete", "usagerecord", "policies-mine", in_release, check=False))


def tenant_cases():
    in_tenant = f"--namespace={TENANT}"
    ended = {"endReason": "Succeeded"}
    case("tenant (edit)", "create a ComputeJob", "allowed", create(tenant, JOB))
    canary = {"gridstake.dev/canary": "node-a"}
    case("tenant (edit)", "create a ComputeJob with the label canary in its namespace", "allowed",
         create(tenant, labelled(TENANT, canary)))
    case("admin of the release namespace", "create a canary", "policy: a ComputeJob with the label gridstake.dev/canary",
         create(["--as=gridstake-policies-admin"], labelled(RELEASE, canary)))
    case("cluster administrator", "create a canary", "policy: a ComputeJob with the label gridstake.dev/canary",
         create([], labelled(RELEASE, canary)))
    case("tenant (edit)", "status of its ComputeJob", "RBAC", status("computejobs", "policies", ended, tenant, TENANT))
    case("cluster administrator", "status of a ComputeJob", "policy: the status", status("computejobs", "policies", ended, [], TENANT))
    case("operator", "status of a ComputeJob", "allowed", status("computejobs", "policies", ended, operator, TENANT))
    case("cluster administrator", "status of a GpuNode", "policy: the status", status("gpunodes", nodes[1], {"free": 1}, []))
    case("tenant (edit)", "change the price of a GpuNode", "RBAC", patch(tenant, "gpunode", nodes[1], {"spec": {"mode": "Drained"}}))
    case("provider", "change the mode of a GpuNode", "allowed",
         patch(["--as=gridstake-policies-provider"], "gpunode", nodes[1], {"spec": {"mode": "Drained"}}))
    case("provider", "status of a GpuNode", "RBAC", status("gpunodes", nodes[1], {"free": 1}, ["--as=gridstake-policies-provider"]))
    uid = kubectl("get", "computejob", "policies", in_tenant, "--output=jsonpath={.metadata.uid}").stdout
    owner = {"apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob", "name": "policies", "uid": uid}
    labels = {"gridstake.dev/job": "policies", "gridstake.dev/job-uid": uid, "gridstake.dev/attempt": "1", "gridstake.dev/member": "0"}
    case("tenant (edit)", "create a pod without marks", "allowed", create(tenant, pod("plain")))
    case("tenant (edit)", "create a pod with the label job-uid", "policy: a pod with the label", create(tenant, pod("forged", labels)))
    case("tenant (edit)", "create a pod owned by a ComputeJob", "policy: a pod with the label",
         create(tenant, pod("forged", ownerReferences=[owner])))
    case("tenant (edit)", "add the label job-uid to a pod", "policy: the labels",
         patch(tenant, "pod", "plain", {"metadata": {"labels": {"gridstake.dev/job-uid": uid}}}, in_tenant))
    case("cluster administrator", "create a pod with the label job-uid", "policy: a pod with the label", create([], pod("forged", labels)))
    case("operator", "create a job's pod", "allowed",
         create(operator, pod("policies-1-0", labels, ownerReferences=[{**owner, "controller": True, "blockOwnerDeletion": True}],
                              finalizers=["gridstake.dev/metering"])))
    case("tenant (edit)", "remove the label job-uid of a job's pod", "policy: the labels gridstake.dev/job-uid",
         patch(tenant, "pod", "policies-1-0", {"metadata": {"labels": {"gridstake.dev/job-uid": None}}}, in_tenant))
    case("tenant (edit)", "remove its finalizer", "policy: the finalizer",
         patch(tenant, "pod", "policies-1-0", {"metadata": {"finalizers": None}}, in_tenant))
    case("tenant (edit)", "lift its scheduling gate", "policy: the scheduling gate",
         patch(tenant, "pod", "policies-1-0", {"spec": {"schedulingGates": None}}, in_tenant))
    case("tenant (edit)", "remove its ownerReferences", "policy: metadata.ownerReferences",
         patch(tenant, "pod", "policies-1-0", {"metadata": {"ownerReferences": None}}, in_tenant))
    case("tenant (edit)", "add a label of its own to it", "allowed",
         patch(tenant, "pod", "policies-1-0", {"metadata": {"labels": {"team": "vision"}}}, in_tenant))
    case("tenant (edit)", "delete it", "allowed", kubectl(*tenant, "delete", "pod", "policies-1-0", in_tenant, "--wait=false", check=False))
    case("operator", "remove its finalizer", "allowed",
         patch(operator, "pod", "policies-1-0", {"metadata": {"finalizers": None}}, in_tenant))


def record(name, node):
    return {"apiVersion": "gridstake.dev/v1alpha1", "kind": "UsageRecord", "metadata": {"name": name, "namespace": RELEASE},
            "spec": {**RECORD, "nodeName": node}}


JOB = {"apiVersion": "gridstake.dev/v1alpha1", "kind": "ComputeJob", "metadata": {"name": "policies", "namespace": TENANT},
       "spec": {"gpu": {"count": 1}, "suspend": True,
                "template": {"spec": {"containers": [{"name": "main", "image": "localhost/busybox:1"}]}}}}


def labelled(namespace, labels):
    return {**JOB, "metadata": {"name": "policies-labelled", "namespace": namespace, "labels": labels}}


RECORD = {"job": {"namespace": TENANT, "name": "policies", "uid": "0f0e6e8a-0000-4000-8000-000000000000"}, "attempt": 1, "member": 0,
          "slice": 0, "podName": "policies-1-0", "gpuCount": 1}
EVIDENCE = {"podUid": "0f0e6e8a-0000-4000-8000-000000000001", "key": "0x" + "a" * 40}
SEALED = {"startMs": 1, "endMs": 2, "gpuMillis": 1, "cause": "MemberEnded", "receiptHash": "0x" + "1" * 64}
SEALED_CONDITION = {"type": "Sealed", "status": "True", "reason": "Sealed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def set_up():
    for node in nodes:
        # Without the label kubernetes.io/os no DaemonSet of ours goes there.
        create_as_administrator({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        create_as_administrator({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": node, "namespace": RELEASE},
            "spec": {"nodeName": node, "serviceAccountName": "gridstake-device-agent",
                     "tolerations": [{"operator": "Exists"}], "containers": [{"name": "none", "image": "none"}]}})
    kubectl("create", "namespace", TENANT)
    kubectl("create", "rolebinding", "tenant", "--clusterrole=edit", "--user=alice", f"--namespace={TENANT}")
    kubectl("create", "rolebinding", "gridstake-policies-admin", "--clusterrole=admin", "--user=gridstake-policies-admin", f"--namespace={RELEASE}")
    kubectl("create", "clusterrolebinding", "gridstake-policies-provider", "--clusterrole=gridstake-provider", "--user=gridstake-policies-provider")


def create_as_administrator(manifest):
    kubectl("create", "--filename=-", stdin=json.dumps(manifest))


def tear_down():
    kubectl("delete", "gpunode", *nodes, "--ignore-not-found", check=False)
    kubectl("delete", "pod", *nodes, f"--namespace={RELEASE}", "--force", "--ignore-not-found", check=False)
    kubectl("delete", "node", *nodes, "--ignore-not-found", check=False)
    kubectl("delete", "lease", "policies", f"--namespace={RELEASE}", "--ignore-not-found", check=False)
    kubectl("delete", "namespace", TENANT, "--wait=false", "--ignore-not-found", check=False)
    kubectl("delete", "rolebinding", "gridstake-policies-admin", f"--namespace={RELEASE}", "--ignore-not-found", check=False)
    kubectl("delete", "clusterrolebinding", "gridstake-policies-provider", "--ignore-not-found", check=False)
    kubectl(*operator, "delete", "usagerecord", "policies-mine", "policies-other", f"--namespace={RELEASE}", "--ignore-not-found", check=False)


if __name__ == "__main__":
    operator, tenant = [f"--as={OPERATOR}"], ["--as=alice"]
    bare, nodes = without_credentials(), ["policies-node-a", "policies-node-b"]
    proxy = subprocess.Popen(["kubectl", "proxy", "--port=0", "--reject-methods=^$"], stdout=subprocess.PIPE, text=True)
    proxy_address = "http://" + proxy.stdout.readline().split()[-1]
    try:
        set_up()
        own = token(nodes[0])
        print("| who | tries to | answer |\n|---|---|---|")
        agent_cases()
        tenant_cases()
        ledger_cases()
    finally:
        tear_down()
        proxy.terminate()
    sys.exit(1 if failures else 0)
