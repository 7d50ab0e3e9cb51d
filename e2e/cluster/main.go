// Command kube-all is one multi-call binary that holds every upstream program
// of a test cluster: etcd and its tools, the Kubernetes control plane, kubelet,
// kube-proxy and kubectl. Linked together they share their packages, so that one build of
// a few minutes gives all of them.
//
// Which program runs is decided by the name it is called under (argv[0],
// through a symbolic link) or, when called as kube-all, by the first argument.
// "kube-all --list" prints the names.
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// program runs one upstream program; its arguments are os.Args[1:].
// It returns the exit status.
type program func() int

// programs are the upstream programs by name.
var programs = map[string]program{
	"etcd":                    runEtcd,
	"etcdctl":                 runEtcdctl,
	"etcdutl":                 runEtcdutl,
	"kube-apiserver":          command(apiserver.NewAPIServerCommand),
	"kube-controller-manager": command(controllers.NewControllerManagerCommand),
	"kube-scheduler":          command(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              command(proxy.NewProxyCommand),
	"kubelet":                 command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kubectl":                 command(func() *cobra.Command { return kubectl.NewDefaultKubectlCommand() }),
}

// command makes a program of an upstream cobra command. The command is built
// only when it runs: building all of them would register their flags twice.
func command(build func() *cobra.Command) program {
	return func() int { return cli.Run(build()) }
}

// runEtcd runs etcd, which ends the process itself when it fails.
func runEtcd() int {
	etcdmain.Main(os.Args)
	return 0
}

// runEtcdctl runs the client of etcd, which takes backups.
func runEtcdctl() int {
	if ctlv3.Start() != nil {
		return 1
	}
	return 0
}

// runEtcdutl runs what upstream's etcdutl does with snapshots: it restores
// backups. Upstream keeps the command around it to itself.
func runEtcdutl() int {
	root := &cobra.Command{Use: "etcdutl"}
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "the output format")
	root.AddCommand(etcdutl.NewSnapshotCommand())
	if root.Execute() != nil {
		return 1
	}
	return 0
}

func init() {
	// etcdctl sets it for every program.
	cobra.EnablePrefixMatching = false
}

func main() {
	os.Exit(run(os.Stdout, os.Stderr))
}

// run chooses the program and runs it; it returns the exit status.
func run(stdout, stderr io.Writer) int {
	name := filepath.Base(os.Args[0])
	if _, known := programs[name]; !known && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	if name == "--list" {
		for _, name := range slices.Sorted(maps.Keys(programs)) {
			fmt.Fprintln(stdout, name)
		}
		return 0
	}
	start, known := programs[name]
	if !known {
		fmt.Fprintf(stderr, "kube-all: no program %q; one of %v\n", name, slices.Sorted(maps.Keys(programs)))
		return 2
	}
	return start()
}
