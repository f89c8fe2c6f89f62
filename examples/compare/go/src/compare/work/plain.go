package work

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// Routes of net/http and chi, whose handlers are the same; parameter finds a part of the path.
type Routes struct {
	Databases *Databases
	Parameter func(*http.Request, string) string
}

func (Routes) Hello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte(Hello))
}

func (r Routes) HelloName(w http.ResponseWriter, request *http.Request) {
	answer(w, Greeting{r.Parameter(request, "name")}, nil)
}

func (r Routes) CPU(w http.ResponseWriter, request *http.Request) {
	below, err := strconv.ParseUint(r.Parameter(request, "below"), 10, 32)
	answer(w, Primes{CountPrimes(uint32(below))}, err)
}

func (r Routes) SQLite(w http.ResponseWriter, request *http.Request) {
	user, err := r.Databases.SQLite(request.Context(), r.Parameter(request, "id"))
	answer(w, user, err)
}

func (r Routes) Postgres(w http.ResponseWriter, request *http.Request) {
	user, err := r.Databases.Postgres(request.Context(), r.Parameter(request, "id"))
	answer(w, user, err)
}

func (Routes) Upload(w http.ResponseWriter, request *http.Request) {
	uploaded, err := Receive(request.Body, false)
	answer(w, uploaded, err)
}

func (Routes) UploadToDisk(w http.ResponseWriter, request *http.Request) {
	uploaded, err := Receive(request.Body, true)
	answer(w, uploaded, err)
}

func answer(w http.ResponseWriter, value any, err error) {
	var body []byte
	if err == nil {
		body, err = json.Marshal(value)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}
