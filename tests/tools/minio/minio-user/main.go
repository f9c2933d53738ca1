// Command minio-user makes one bucket, as root, and one user that may do exactly what a policy file says.
//
// The tests give it the IAM policy of the user's document, so a request that needs any other
// permission fails the test that made it. Keys come from the environment, never from arguments.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/minio/madmin-go/v3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: minio-user URL BUCKET POLICY_FILE  (keys: MINIO_ROOT_USER, MINIO_ROOT_PASSWORD, USER_ACCESS_KEY, USER_SECRET_KEY)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "minio-user:", err)
		os.Exit(1)
	}
}

func run(endpoint, bucket, policyFile string) error {
	const policyName = "drover-test"
	policy, err := os.ReadFile(policyFile)
	if err != nil {
		return err
	}
	server, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	ctx := context.Background()
	root := credentials.NewStaticV4(os.Getenv("MINIO_ROOT_USER"), os.Getenv("MINIO_ROOT_PASSWORD"), "")
	secure := server.Scheme == "https"

	client, err := minio.New(server.Host, &minio.Options{Creds: root, Secure: secure})
	if err != nil {
		return err
	}
	exists, err := client.BucketExists(ctx, bucket)
	if err != nil {
		return fmt.Errorf("failed to look for the bucket: %w", err)
	}
	if !exists {
		if err := client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil {
			return fmt.Errorf("failed to make the bucket: %w", err)
		}
	}

	admin, err := madmin.NewWithOptions(server.Host, &madmin.Options{Creds: root, Secure: secure})
	if err != nil {
		return err
	}
	if err := admin.AddCannedPolicy(ctx, policyName, policy); err != nil {
		return fmt.Errorf("failed to add the policy: %w", err)
	}
	user := os.Getenv("USER_ACCESS_KEY")
	if err := admin.AddUser(ctx, user, os.Getenv("USER_SECRET_KEY")); err != nil {
		return fmt.Errorf("failed to add the user: %w", err)
	}
	if _, err := admin.AttachPolicy(ctx, madmin.PolicyAssociationReq{Policies: []string{policyName}, User: user}); err != nil {
		return fmt.Errorf("failed to attach the policy: %w", err)
	}
	return nil
}
