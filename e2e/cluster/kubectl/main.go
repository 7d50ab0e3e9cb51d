// Command kubectl is kubectl alone, for worlds that bring their own cluster:
// it builds in a fraction of kube-all's time.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
)

func main() {
	os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
}
