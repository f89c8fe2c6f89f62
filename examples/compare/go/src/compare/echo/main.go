package main

import (
	"compare/work"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/labstack/echo"
)

func main() {
	databases := work.Open()
	router := echo.New()
	router.GET("/hello", func(c echo.Context) error { return c.String(http.StatusOK, work.Hello) })
	router.GET("/hello/:name", func(c echo.Context) error {
		return answer(c, work.Greeting{Hello: c.Param("name")}, nil)
	})
	router.GET("/cpu/:below", func(c echo.Context) error {
		below, err := strconv.ParseUint(c.Param("below"), 10, 32)
		return answer(c, work.Primes{Primes: work.CountPrimes(uint32(below))}, err)
	})
	router.GET("/sqlite/:id", func(c echo.Context) error {
		user, err := databases.SQLite(c.Request().Context(), c.Param("id"))
		return answer(c, user, err)
	})
	router.GET("/postgres/:id", func(c echo.Context) error {
		user, err := databases.Postgres(c.Request().Context(), c.Param("id"))
		return answer(c, user, err)
	})
	router.POST("/upload", func(c echo.Context) error {
		uploaded, err := work.Receive(c.Request().Body, false)
		return answer(c, uploaded, err)
	})
	router.POST("/upload/disk", func(c echo.Context) error {
		uploaded, err := work.Receive(c.Request().Body, true)
		return answer(c, uploaded, err)
	})
	work.Serve(router)
}

// Echo's own c.JSON ends the body with a line feed, and the bodies are to be the same.
func answer(c echo.Context, value any, err error) error {
	if err != nil {
		return err
	}
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return c.JSONBlob(http.StatusOK, body)
}
