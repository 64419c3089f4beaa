// A shop with one page.
package main

import (
	"database/sql"
	"encoding/json"
	"log"
	"net/http"
	"os"

	_ "github.com/jackc/pgx/v5/stdlib"
)

type product struct {
	Name  string `json:"name"`
	Price string `json:"price"`
}

func main() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /products", func(w http.ResponseWriter, r *http.Request) {
		found, err := products(r, db)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(found)
	})
	port := os.Getenv("PORT")
	if port == "" {
		port = "8000"
	}
	log.Fatal(http.ListenAndServe(":"+port, nil))
}

func products(r *http.Request, db *sql.DB) ([]product, error) {
	rows, err := db.QueryContext(r.Context(), "SELECT name, price::text FROM products ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := []product{}
	for rows.Next() {
		var one product
		if err := rows.Scan(&one.Name, &one.Price); err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, rows.Err()
}
