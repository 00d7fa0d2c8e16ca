// podlet stands in for a kubelet: a node whose containers are processes of this machine.
//
// It registers one Node, binds pods that nobody has scheduled to it, runs each container's command as a
// local process in ROOT/NAMESPACE/POD/CONTAINER, reports status, and serves exec and logs with the
// kubelet's own streaming library, so that exit codes, the end of standard input and separate standard
// error are those of a real node. A container without a command "runs" until its pod is deleted.
//
// What a container started ends with it, also what was started by exec and in sessions of its own: all
// of it carries the pod's uid in its environment. There are no images, volumes, probes, init containers,
// terminals and port-forwards; runAsUser, runAsGroup and readiness gates are obeyed.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"
)

// podlet is the node: its pods by uid, and the queue of those to look at.
type podlet struct {
	client kubernetes.Interface
	node   string
	root   string
	queue  workqueue.TypedRateLimitingInterface[string]
	pods   cache.Store
	running
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig of a user that may do what a node and a scheduler may")
	node := flag.String("node", "local", "name of the node")
	listen := flag.String("listen", "127.0.0.1:0", "address of the exec and log server")
	cert := flag.String("cert", "", "its certificate")
	key := flag.String("key", "", "its key")
	clientCA := flag.String("client-ca", "", "the CA of clients that it serves: the API server")
	root := flag.String("root", "", "directory that holds the pods' working directories")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	check(err)
	p := &podlet{
		client:  client,
		node:    *node,
		root:    *root,
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		running: newRunning(),
	}
	port, err := p.serve(*listen, *cert, *key, *clientCA)
	check(err)

	ctx := context.Background()
	// The controller manager writes to a new Node at once, so the status update can conflict.
	patient := wait.Backoff{Steps: 50, Duration: 20 * time.Millisecond, Factor: 1.2, Cap: time.Second}
	check(retry.RetryOnConflict(patient, func() error { return p.register(ctx, port) }))
	go p.heartbeat(ctx)
	p.watch(ctx)
	log.Printf("%s serves exec and logs on port %d", *node, port)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	p.killAll()
}

// watch follows all pods and looks at each one that changed.
func (p *podlet) watch(ctx context.Context) {
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			p.queue.Add(key)
		}
	}
	gone := func(object any) {
		if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = last.Obj
		}
		if pod, ok := object.(*corev1.Pod); ok {
			p.kill(pod.UID)
		}
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(p.client.CoreV1().RESTClient(), "pods", "", fields.Everything()),
		ObjectType:    &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    enqueue,
			UpdateFunc: func(_, object any) { enqueue(object) },
			DeleteFunc: gone,
		},
	})
	p.pods = store
	go controller.Run(ctx.Done())
	for range 8 {
		go func() {
			for {
				key, _ := p.queue.Get()
				if err := p.sync(ctx, key); err != nil {
					log.Printf("%s: %v", key, err)
					p.queue.AddRateLimited(key)
				} else {
					p.queue.Forget(key)
				}
				p.queue.Done(key)
			}
		}()
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
