module goose2

go 1.21

require (
	github.com/lib/pq v1.10.9
	github.com/pressly/goose v2.1.0+incompatible
)
