package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// The kubelet's own limits.
const (
	idle     = 4 * time.Hour
	creation = 30 * time.Second
)

// serve starts the exec and log server, for the API server's client certificate alone.
func (p *podlet) serve(address, cert, key, clientCA string) (int32, error) {
	ca, err := os.ReadFile(clientCA)
	if err != nil {
		return 0, err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return 0, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return 0, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", p.serveExec)
	mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", p.serveExec)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", p.serveLogs)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair},
		ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"http/1.1"}}}
	go func() { check(server.ServeTLS(listener, "", "")) }()
	return int32(listener.Addr().(*net.TCPAddr).Port), nil
}

// lookup returns the container that a request names.
func (p *podlet) lookup(r *http.Request) *container {
	object, ok, _ := p.pods.GetByKey(r.PathValue("namespace") + "/" + r.PathValue("pod"))
	if !ok {
		return nil
	}
	return p.find(object.(*corev1.Pod).UID, r.PathValue("container"))
}

func (p *podlet) serveExec(w http.ResponseWriter, r *http.Request) {
	c := p.lookup(r)
	if c == nil || (c.cmd != nil && p.over(c)) {
		http.Error(w, "the container does not run", http.StatusNotFound)
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, c, r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"),
		r.URL.Query()["command"], options, idle, creation, remotecommand.SupportedStreamingProtocols)
}

// ExecInContainer implements remotecommand.Executor. As on a real node, a client that goes away ends
// standard input and nothing else: the program runs on.
func (c *container) ExecInContainer(_ context.Context, _, _, _ string, argv []string,
	in io.Reader, out, errs io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	if tty {
		return errors.New("podlet has no terminals; leave -t out")
	}
	cmd := c.command(exec.Command(argv[0], argv[1:]...))
	// What the program left running may hold its pipes; the answer does not wait for that.
	cmd.WaitDelay = 5 * time.Second
	if out != nil {
		cmd.Stdout = c.losing(out)
	}
	if errs != nil {
		cmd.Stderr = errs
	}
	if in != nil {
		// Not cmd.Stdin = in: Wait would then wait for the client to close its standard input.
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(stdin, in)
			stdin.Close()
		}()
	}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	return utilexec.CodeExitError{Err: err, Code: exitCode(err)}
}

// losing is standard output that loses some of its bytes on the way, and says nothing of it: as it was
// seen of real nodes, which then report that the program succeeded.
type losing struct {
	io.Writer
	at, from, to int64
}

// losing does so where the container's variable PODLET_LOSES says FROM:COUNT.
func (c *container) losing(out io.Writer) io.Writer {
	for _, variable := range c.env {
		var from, count int64
		if n, _ := fmt.Sscanf(variable, "PODLET_LOSES=%d:%d", &from, &count); n == 2 {
			return &losing{Writer: out, from: from, to: from + count}
		}
	}
	return out
}

func (l *losing) Write(b []byte) (int, error) {
	within := func(at int64) int64 { return min(max(at-l.at, 0), int64(len(b))) }
	from, to := within(l.from), within(l.to)
	l.at += int64(len(b))
	for _, kept := range [][]byte{b[:from], b[to:]} {
		if len(kept) > 0 {
			if _, err := l.Writer.Write(kept); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

func (p *podlet) serveLogs(w http.ResponseWriter, r *http.Request) {
	c := p.lookup(r)
	if c == nil {
		http.Error(w, "there is no such container", http.StatusNotFound)
		return
	}
	file, err := os.Open(c.dir + ".log")
	if errors.Is(err, os.ErrNotExist) {
		return // without a command it says nothing
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer file.Close()
	if limit, err := strconv.ParseInt(r.FormValue("limitBytes"), 10, 64); err == nil {
		io.CopyN(w, file, limit)
		return
	}
	follow := r.FormValue("follow") == "true"
	for {
		over := p.over(c)
		io.Copy(w, file)
		if over || !follow || r.Context().Err() != nil {
			return
		}
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		time.Sleep(200 * time.Millisecond)
	}
}
