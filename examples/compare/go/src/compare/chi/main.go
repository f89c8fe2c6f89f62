package main

import (
	"compare/work"

	"github.com/go-chi/chi"
)

func main() {
	routes := work.Routes{Databases: work.Open(), Parameter: chi.URLParam}
	router := chi.NewRouter()
	router.Get("/hello", routes.Hello)
	router.Get("/hello/{name}", routes.HelloName)
	router.Get("/cpu/{below}", routes.CPU)
	router.Get("/sqlite/{id}", routes.SQLite)
	router.Get("/postgres/{id}", routes.Postgres)
	router.Post("/upload", routes.Upload)
	router.Post("/upload/disk", routes.UploadToDisk)
	work.Serve(router)
}
