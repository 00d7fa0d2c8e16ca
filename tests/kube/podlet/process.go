package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// container is one container of a pod: where it runs, as whom, and its process.
type container struct {
	dir     string
	env     []string
	user    *syscall.Credential // nil: the user of podlet
	cmd     *exec.Cmd           // nil: a container without a command
	started metav1.Time
	ended   metav1.Time
	done    bool
	code    int32
}

// running holds the containers of every pod that was started.
type running struct {
	mu   sync.Mutex
	pods map[types.UID]map[string]*container
}

func newRunning() running {
	return running{pods: map[types.UID]map[string]*container{}}
}

// start starts the containers of a pod that was not started yet; `ended` is called when one ends.
func (r *running) start(pod *corev1.Pod, root string, ended func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pods[pod.UID] != nil {
		return nil
	}
	all := map[string]*container{}
	for i := range pod.Spec.Containers {
		spec := &pod.Spec.Containers[i]
		c, err := prepare(pod, spec, root)
		if err != nil {
			return err
		}
		all[spec.Name] = c
		if len(spec.Command) == 0 {
			continue
		}
		out, err := os.Create(c.dir + ".log")
		if err != nil {
			return err
		}
		c.cmd = c.command(exec.Command(spec.Command[0], append(spec.Command[1:], spec.Args...)...))
		c.cmd.Stdout, c.cmd.Stderr = out, out
		if err := c.cmd.Start(); err != nil {
			fmt.Fprintln(out, err)
			out.Close()
			c.done, c.code, c.ended = true, 127, metav1.Now()
			continue
		}
		go func() {
			err := c.cmd.Wait()
			out.Close()
			r.mu.Lock()
			c.done, c.code, c.ended = true, int32(exitCode(err)), metav1.Now()
			r.mu.Unlock()
			ended()
		}()
	}
	r.pods[pod.UID] = all
	return nil
}

// prepare makes the container's directory, environment and user.
func prepare(pod *corev1.Pod, spec *corev1.Container, root string) (*container, error) {
	c := &container{dir: filepath.Join(root, pod.Namespace, pod.Name, spec.Name), started: metav1.Now()}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	c.env = append(os.Environ(), "HOME="+c.dir, "POD_DIR="+c.dir, "POD_UID="+string(pod.UID),
		"POD_NAME="+pod.Name, "POD_NAMESPACE="+pod.Namespace)
	for _, variable := range spec.Env {
		if variable.ValueFrom == nil {
			c.env = append(c.env, variable.Name+"="+variable.Value)
		}
	}
	var user, group *int64
	if s := pod.Spec.SecurityContext; s != nil {
		user, group = s.RunAsUser, s.RunAsGroup
	}
	if s := spec.SecurityContext; s != nil && s.RunAsUser != nil {
		user, group = s.RunAsUser, s.RunAsGroup
	}
	if user == nil {
		return c, nil
	}
	c.user = &syscall.Credential{Uid: uint32(*user)}
	if group != nil {
		c.user.Gid = uint32(*group)
	}
	return c, os.Chown(c.dir, int(c.user.Uid), int(c.user.Gid))
}

// command puts a command into the container.
func (c *container) command(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir, cmd.Env = c.dir, c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.user}
	return cmd
}

// containers says what the containers of a pod do, how many run, and whether one failed.
func (r *running) containers(pod *corev1.Pod) (all []corev1.ContainerStatus, running int, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, spec := range pod.Spec.Containers {
		c := r.pods[pod.UID][spec.Name]
		if c == nil {
			continue // deleted meanwhile
		}
		runs := !c.done
		status := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, ImageID: spec.Image,
			ContainerID: "process://" + string(pod.UID) + "/" + spec.Name, Ready: runs, Started: &runs}
		if runs {
			running++
			status.State.Running = &corev1.ContainerStateRunning{StartedAt: c.started}
		} else {
			reason := "Completed"
			if c.code != 0 {
				reason, failed = "Error", true
			}
			status.State.Terminated = &corev1.ContainerStateTerminated{
				ExitCode: c.code, Reason: reason, StartedAt: c.started, FinishedAt: c.ended}
		}
		all = append(all, status)
	}
	return all, running, failed
}

// find returns a container that was started.
func (r *running) find(pod types.UID, name string) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[pod][name]
}

// over says whether the container has nothing more to say.
func (r *running) over(c *container) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.done || c.cmd == nil
}

// kill ends everything that a pod started.
func (r *running) kill(pod types.UID) {
	r.mu.Lock()
	_, known := r.pods[pod]
	delete(r.pods, pod)
	r.mu.Unlock()
	if !known {
		return
	}
	carries := []byte("\x00POD_UID=" + string(pod) + "\x00")
	// Again until nothing is found: what is just being started has its environment a moment later.
	for range 50 {
		found := false
		entries, _ := os.ReadDir("/proc")
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil {
				continue
			}
			environment, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
			if bytes.Contains(environment, carries) {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !found {
			return
		}
	}
}

// killAll ends every pod.
func (r *running) killAll() {
	r.mu.Lock()
	var all []types.UID
	for pod := range r.pods {
		all = append(all, pod)
	}
	r.mu.Unlock()
	for _, pod := range all {
		r.kill(pod)
	}
}

// exitCode is what a shell would say: 128 and the signal for who was killed.
func exitCode(err error) int {
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist):
		return 127
	case !errors.As(err, &ended):
		return 126
	}
	if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return ended.ExitCode()
}
