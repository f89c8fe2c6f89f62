package main

import (
	"compare/work"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
)

func main() {
	databases := work.Open()
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/hello", func(c *gin.Context) { c.String(http.StatusOK, work.Hello) })
	router.GET("/hello/:name", func(c *gin.Context) {
		c.JSON(http.StatusOK, work.Greeting{Hello: c.Param("name")})
	})
	router.GET("/cpu/:below", func(c *gin.Context) {
		below, err := strconv.ParseUint(c.Param("below"), 10, 32)
		answer(c, work.Primes{Primes: work.CountPrimes(uint32(below))}, err)
	})
	router.GET("/sqlite/:id", func(c *gin.Context) {
		user, err := databases.SQLite(c.Request.Context(), c.Param("id"))
		answer(c, user, err)
	})
	router.GET("/postgres/:id", func(c *gin.Context) {
		user, err := databases.Postgres(c.Request.Context(), c.Param("id"))
		answer(c, user, err)
	})
	router.POST("/upload", func(c *gin.Context) {
		uploaded, err := work.Receive(c.Request.Body, false)
		answer(c, uploaded, err)
	})
	router.POST("/upload/disk", func(c *gin.Context) {
		uploaded, err := work.Receive(c.Request.Body, true)
		answer(c, uploaded, err)
	})
	work.Serve(router)
}

func answer(c *gin.Context, value any, err error) {
	if err != nil {
		c.String(http.StatusInternalServerError, err.Error())
		return
	}
	c.JSON(http.StatusOK, value)
}
