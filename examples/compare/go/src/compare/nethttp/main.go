// Go's standard library.

// Programs outside of modules need to ask for patterns with methods and wildcards.
//
//go:debug httpmuxgo121=0
package main

import (
	"compare/work"
	"net/http"
)

func main() {
	routes := work.Routes{
		Databases: work.Open(),
		Parameter: func(request *http.Request, name string) string { return request.PathValue(name) },
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", routes.Hello)
	mux.HandleFunc("GET /hello/{name}", routes.HelloName)
	mux.HandleFunc("GET /cpu/{below}", routes.CPU)
	mux.HandleFunc("GET /sqlite/{id}", routes.SQLite)
	mux.HandleFunc("GET /postgres/{id}", routes.Postgres)
	mux.HandleFunc("POST /upload", routes.Upload)
	mux.HandleFunc("POST /upload/disk", routes.UploadToDisk)
	work.Serve(mux)
}
