// Package work is what every server does, so that only the way to it differs. It is the Go twin of
// src/peers/work.rs.
package work

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v4/pgxpool"
	_ "github.com/mattn/go-sqlite3"
)

const Hello = "Hello, world!"

const query = "SELECT id, name, region FROM users WHERE id = $1"

type Greeting struct {
	Hello string `json:"hello"`
}

type User struct {
	ID     int    `json:"id"`
	Name   string `json:"name"`
	Region string `json:"region"`
}

type Uploaded struct {
	Received int64 `json:"received"`
}

type Primes struct {
	Primes uint32 `json:"primes"`
}

func CountPrimes(below uint32) uint32 {
	count := uint32(0)
	for n := uint32(2); n < below; n++ {
		prime := true
		for d := uint32(2); d*d <= n; d++ {
			if n%d == 0 {
				prime = false
				break
			}
		}
		if prime {
			count++
		}
	}
	return count
}

// Databases are those that the harness has filled.
type Databases struct {
	sqlite   *sql.Stmt
	postgres *pgxpool.Pool
}

func Open() *Databases {
	databases := &Databases{}
	if path := os.Getenv("COMPARE_SQLITE"); path != "" {
		database, err := sql.Open("sqlite3", "file:"+path+"?mode=ro&_mutex=no")
		check(err)
		database.SetMaxIdleConns(16)
		databases.sqlite, err = database.Prepare(query)
		check(err)
	}
	if url := os.Getenv("COMPARE_POSTGRES"); url != "" {
		config, err := pgxpool.ParseConfig(url)
		check(err)
		config.MaxConns = 16
		databases.postgres, err = pgxpool.ConnectConfig(context.Background(), config)
		check(err)
	}
	return databases
}

func (d *Databases) SQLite(ctx context.Context, text string) (user User, err error) {
	id, err := strconv.Atoi(text)
	if err == nil {
		err = d.sqlite.QueryRowContext(ctx, id).Scan(&user.ID, &user.Name, &user.Region)
	}
	return user, err
}

// Postgres prepares the query once for each connection, as pgx does by itself.
func (d *Databases) Postgres(ctx context.Context, text string) (user User, err error) {
	id, err := strconv.Atoi(text)
	if err == nil {
		err = d.postgres.QueryRow(ctx, query, id).Scan(&user.ID, &user.Name, &user.Region)
	}
	return user, err
}

var uploads atomic.Uint64

// Receive takes a whole body: counted, or written to a file that is gone from its folder as soon as it is
// open.
func Receive(body io.Reader, toDisk bool) (Uploaded, error) {
	sink := io.Discard
	if toDisk {
		name := fmt.Sprintf("%s/upload-%d-%d", os.Getenv("COMPARE_UPLOADS"), os.Getpid(), uploads.Add(1))
		file, err := os.Create(name)
		if err != nil {
			return Uploaded{}, err
		}
		defer file.Close()
		if err := os.Remove(name); err != nil {
			return Uploaded{}, err
		}
		sink = file
	}
	received, err := io.Copy(sink, body)
	return Uploaded{received}, err
}

// Serve listens, tells the harness where, and drains at SIGTERM.
func Serve(handler http.Handler) {
	if workers, err := strconv.Atoi(os.Getenv("COMPARE_WORKERS")); err == nil {
		runtime.GOMAXPROCS(workers)
	}
	address := os.Getenv("COMPARE_ADDRESS")
	if address == "" {
		address = "127.0.0.1:0"
	}
	// Several may share one address, as a restart needs.
	shared := net.ListenConfig{Control: func(_, _ string, socket syscall.RawConn) error {
		const reusePort = 15
		var set error
		err := socket.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1)
		})
		if err != nil {
			return err
		}
		return set
	}}
	if path := os.Getenv("COMPARE_ALLOCATIONS"); path != "" {
		go countAllocations(path)
	}
	listener, err := shared.Listen(context.Background(), "tcp4", address)
	check(err)
	server := http.Server{Handler: handler}
	ended := make(chan struct{})
	go func() {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		<-terminated
		deadline, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = server.Shutdown(deadline)
		close(ended)
	}()
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); err != http.ErrServerClosed {
		check(err)
	}
	<-ended
}

// countAllocations writes how often memory was allocated, again and again.
func countAllocations(path string) {
	file, err := os.Create(path)
	check(err)
	var count [8]byte
	var stats runtime.MemStats
	for {
		runtime.ReadMemStats(&stats)
		binary.LittleEndian.PutUint64(count[:], stats.Mallocs)
		_, err := file.WriteAt(count[:], 0)
		check(err)
		time.Sleep(20 * time.Millisecond)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
}
