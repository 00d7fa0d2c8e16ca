package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sync brings one pod one step on: bound, started, reported, or gone.
func (p *podlet) sync(ctx context.Context, key string) error {
	object, ok, err := p.pods.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	pod := object.(*corev1.Pod).DeepCopy()
	api := p.client.CoreV1().Pods(pod.Namespace)
	switch {
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
		return nil
	case pod.Spec.NodeName == "":
		return overtaken(api.Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: p.node},
		}, metav1.CreateOptions{}))
	case pod.Spec.NodeName != p.node:
		return nil
	case pod.DeletionTimestamp != nil:
		p.kill(pod.UID)
		now := int64(0)
		return overtaken(api.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}}))
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return nil
	}
	again := func() { p.queue.Add(key) }
	if err := p.start(pod, p.root, again); err != nil {
		return err
	}
	was := fmt.Sprint(pod.Status.Phase, pod.Status.ContainerStatuses, verdicts(pod.Status.Conditions))
	p.report(pod)
	if fmt.Sprint(pod.Status.Phase, pod.Status.ContainerStatuses, verdicts(pod.Status.Conditions)) == was {
		return nil
	}
	_, err = api.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return overtaken(err)
}

// report writes into the pod's status what its containers do. Conditions of others stay: readiness gates
// are theirs.
func (p *podlet) report(pod *corev1.Pod) {
	status := &pod.Status
	status.HostIP, status.PodIP = "127.0.0.1", "127.0.0.1"
	status.HostIPs, status.PodIPs = []corev1.HostIP{{IP: "127.0.0.1"}}, []corev1.PodIP{{IP: "127.0.0.1"}}
	now := metav1.Now()
	if status.StartTime == nil {
		status.StartTime = &now
	}
	containers, running, failed := p.containers(pod)
	status.ContainerStatuses = containers
	status.Phase = corev1.PodRunning
	switch {
	case running == 0 && failed:
		status.Phase = corev1.PodFailed
	case running == 0:
		status.Phase = corev1.PodSucceeded
	}
	allRun := running == len(pod.Spec.Containers)
	set := func(kind corev1.PodConditionType, holds bool) {
		verdict := corev1.ConditionFalse
		if holds {
			verdict = corev1.ConditionTrue
		}
		for i := range status.Conditions {
			if c := &status.Conditions[i]; c.Type == kind {
				if c.Status != verdict {
					c.Status, c.LastTransitionTime = verdict, now
				}
				return
			}
		}
		status.Conditions = append(status.Conditions,
			corev1.PodCondition{Type: kind, Status: verdict, LastTransitionTime: now})
	}
	set(corev1.PodScheduled, true)
	set(corev1.PodInitialized, true)
	set(corev1.ContainersReady, allRun)
	set(corev1.PodReady, allRun && gatesOpen(pod))
}

// gatesOpen says whether every readiness gate's condition is true.
func gatesOpen(pod *corev1.Pod) bool {
	given := verdicts(pod.Status.Conditions)
	for _, gate := range pod.Spec.ReadinessGates {
		if given[gate.ConditionType] != corev1.ConditionTrue {
			return false
		}
	}
	return true
}

// verdicts are the conditions without their times.
func verdicts(conditions []corev1.PodCondition) map[corev1.PodConditionType]corev1.ConditionStatus {
	found := map[corev1.PodConditionType]corev1.ConditionStatus{}
	for _, condition := range conditions {
		found[condition.Type] = condition.Status
	}
	return found
}

// overtaken forgives what only says that somebody else was faster: the next look at the pod shows it.
func overtaken(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
