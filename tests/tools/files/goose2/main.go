// goose 2.1.0, which also wrote a row for each down migration. Its library, since its command brings other databases.
package main

import (
	"database/sql"
	"log"
	"os"

	_ "github.com/lib/pq"
	"github.com/pressly/goose"
)

func main() {
	db, err := sql.Open("postgres", os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := goose.Run(os.Args[3], db, os.Args[1], os.Args[4:]...); err != nil {
		log.Fatal(err)
	}
}
